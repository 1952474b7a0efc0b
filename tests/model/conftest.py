"""Every shape annotation of `model` is checked while these tests run."""

import torch
from jaxtyping import install_import_hook

from tests.model import typechecker

install_import_hook("model", f"{typechecker.__name__}.{typechecker.check_types.__name__}")
torch.set_num_threads(1)
