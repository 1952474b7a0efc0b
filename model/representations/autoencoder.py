"""Activations compressed to a few bounded numbers of which every prefix is a compression too.

Paper: LoopFM (arXiv 2605.29280), Matryoshka autoencoder on stop-gradient activations.
"""

import torch
from jaxtyping import Bool, Float, Float32
from torch import Tensor, nn

from model.embeddings import DenseNormaliser
from model.mlp import MLP, mlp_flops, mlp_num_parameters
from model.representations.config import AutoencoderConfig


class MatryoshkaAutoencoder(nn.Module):
    """An autoencoder whose latent may be cut off after any of several nested widths.

    x   = (stopgrad(a) − mean) / std,  each column by statistics that are fitted once
    z   = tanh(E(x)),  V numbers between −1 and 1
    x̂_m = D([z_1 … z_m 0 … 0]),  m over the nested widths

    Nothing here gives the model behind the activations a gradient.

    Paper: LoopFM, Matryoshka autoencoder with a tanh latent.
    Differs: the paper's digest gives neither widths nor the decoder: one decoder serves all widths,
        and columns are standardised, so that no column counts for more because it is large.

    Args:
        config: Its shape.
        seed: Seed of every initial weight; the global random state is left as it was.
    """

    def __init__(self, config: AutoencoderConfig, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        self.normaliser = DenseNormaliser(config.input_dim)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.encoder = MLP(_widths(config))
            self.decoder = MLP(_widths(config)[::-1])

    def encode(self, activations: Float32[Tensor, "B R"]) -> Float[Tensor, "B V"]:
        """The latent of each row; the first m columns are its compression to m numbers."""
        return torch.tanh(self.encoder(self.normaliser(activations.detach())))

    def forward(
        self, activations: Float32[Tensor, "B R"]
    ) -> tuple[Float[Tensor, "B R"], Float[Tensor, "M B R"]]:
        """Standardised activations, and what each of the M nested widths makes of them."""
        target = self.normaliser(activations.detach())
        latent = torch.tanh(self.encoder(target))
        columns = torch.arange(self.config.latent_dim, device=latent.device)
        cut = torch.stack(
            [torch.where(columns < width, latent, 0.0) for width in self.config.prefixes]
        )  # M B V
        return target, self.decoder(cut)


def reconstruction_loss(
    target: Float[Tensor, "B R"],
    reconstructed: Float[Tensor, "M B R"],
    mask: Bool[Tensor, " B"],
    normaliser: Float[Tensor, ""],
) -> Float[Tensor, " M"]:
    """Mean squared error of each nested width; of a width that says nothing it is about 1.

    L_m = Σ_b mask_b |x_b − x̂_mb|² / (R n)

    Paper: LoopFM; Matryoshka representations (arXiv 2205.13147), equation 1, sum over widths.
    Differs: the caller adds the widths up; the divisor is the caller's, as in `model.losses`.

    Args:
        target: Standardised activations.
        reconstructed: Of each nested width.
        mask: Rows that count.
        normaliser: Rows of the global batch that count (n); below 1 it is taken as 1.
    """
    errors = (reconstructed - target).square().mean(dim=2)  # M B
    return torch.where(mask, errors, 0.0).sum(dim=1) / normaliser.clamp(min=1.0)


def num_parameters(config: AutoencoderConfig) -> int:
    """Parameters of a `MatryoshkaAutoencoder`, in closed form."""
    widths = _widths(config)
    return mlp_num_parameters(widths) + mlp_num_parameters(widths[::-1])


def encoder_flops(config: AutoencoderConfig) -> int:
    """Forward FLOPs of `encode` for one row."""
    return mlp_flops(_widths(config))


def _widths(config: AutoencoderConfig) -> tuple[int, ...]:
    return (config.input_dim, *config.hidden, config.latent_dim)
