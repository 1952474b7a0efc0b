"""FuxiCTR's side of `bench_peer_training`, run by the Python of an environment of its own.

The model is `DCNv2` of FuxiCTR's model zoo, in its parallel form: built, compiled and initialised
by FuxiCTR, from FuxiCTR's embedding, cross network and MLP. The package's `DCNv2` reads sequences
of items beside the row; what does so is replaced here by `BaseModel`'s own, and the forward pass by
that of its repository's `DCNv2` for rows without sequences. Rows come from its `NpzDataLoader`,
and its `fit` is what trains.

Called with the JSON that `bench_peer_training.Setup` writes. Orders are lines on stdin, answers are
lines of JSON on stdout: `agree` loads given weights and predicts; otherwise `fit` starts at once,
and every number n lets it take n steps, whose seconds are the answer.
"""

# Not one of our packages: it is here when FuxiCTR's environment runs this file.
# pyright: reportMissingImports=false

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from fuxictr.features import FeatureMap
from fuxictr.pytorch.dataloaders import RankDataLoader
from fuxictr.pytorch.models import BaseModel
from fuxictr.pytorch.torch_utils import seed_everything
from model_zoo.LongCTR.DCNv2 import DCNv2
from torch.utils.flop_counter import FlopCounterMode

sys.stdout.flush()
ANSWERS = os.fdopen(os.dup(1), "w", buffering=1)
# What the library prints is not taken for an answer.
os.dup2(2, 1)


class RowDcnV2(DCNv2):
    """FuxiCTR's DCNv2 for rows without sequences."""

    get_inputs, get_labels = BaseModel.get_inputs, BaseModel.get_labels
    train_step = BaseModel.train_step

    def forward(self, inputs):
        embedded = self.embedding_layer(self.get_inputs(inputs), flatten_emb=True)
        parts = [self.crossnet(embedded), self.parallel_dnn(embedded)]
        return {"y_pred": self.output_activation(self.fc(torch.cat(parts, dim=-1)))}

    def eval_step(self):
        # `fit` evaluates within its last step; that is not training.
        self.paced.tell()
        super().eval_step()


class Paced:
    """A loader that hands on batches as they are asked for, and tells what each order took."""

    def __init__(self, loader, num_batches):
        self.loader, self.num_batches = loader, num_batches
        self.began, self.loader_seconds = None, 0.0

    def __len__(self):
        return self.num_batches

    def __iter__(self):
        batches, given = iter(self.loader), 0
        while given < self.num_batches:
            number = int(input())
            self.began, self.loader_seconds = (time.perf_counter(), time.process_time()), 0.0
            for _ in range(number):
                asked = time.perf_counter()
                batch = next(batches)
                self.loader_seconds += time.perf_counter() - asked
                yield batch
            # The last step is over when the next batch is asked for.
            self.tell()
            given += number

    def tell(self):
        """What the order took, once."""
        if self.began is not None:
            wall, cpu = self.began
            answer(
                wall_seconds=time.perf_counter() - wall,
                cpu_seconds=time.process_time() - cpu,
                loader_seconds=self.loader_seconds,
            )
        self.began = None


def answer(**told):
    """One line of JSON."""
    print(json.dumps(told), file=ANSWERS, flush=True)


def feature_map_of(setup):
    """The fields as FuxiCTR's preprocessing describes them."""
    feature_map = FeatureMap("bench", setup["folder"])
    names = [f"f{i}" for i in range(setup["num_fields"])]
    for name in names:
        feature_map.features[name] = {
            "source": "",
            "type": "categorical",
            "padding_idx": 0,
            "vocab_size": setup["rows_per_table"],
        }
    feature_map.labels = ["label"]
    feature_map.num_fields = len(names)
    feature_map.default_emb_dim = setup["width"]
    feature_map.set_column_index()
    return feature_map


def main():
    setup = json.loads(Path(sys.argv[1]).read_text())
    torch.set_num_threads(1)
    seed_everything(setup["seed"])
    folder, feature_map = Path(setup["folder"]), feature_map_of(setup)
    with tempfile.TemporaryDirectory(dir=folder) as checkpoints:
        model = RowDcnV2(
            feature_map,
            model_root=checkpoints,
            verbose=0,
            metrics=["logloss"],
            monitor={"logloss": -1},
            optimizer="adam",
            loss="binary_crossentropy",
            learning_rate=setup["peer_lr"],
            embedding_dim=setup["width"],
            num_cross_layers=setup["num_cross_layers"],
            parallel_dnn_hidden_units=list(setup["deep_hidden"]),
        )
        Path(model.model_dir).mkdir(parents=True, exist_ok=True)
        train, test = RankDataLoader(
            feature_map,
            stage="train",
            train_data=str(folder / "train.npz"),
            valid_data=str(folder / "test.npz"),
            batch_size=setup["batch_size"],
            shuffle=False,
            num_workers=0,
        )
        counter = FlopCounterMode(display=False)
        batch = next(iter(test))
        with counter, torch.no_grad():
            model(batch)
        answer(
            fuxictr=version("fuxictr"),
            torch=torch.__version__,
            num_threads=torch.get_num_threads(),
            num_parameters=sum(weight.numel() for weight in model.parameters()),
            flops_per_row=counter.get_total_flops() / len(batch["label"]),
        )
        if setup["mode"] == "agree":
            given = np.load(folder / "weights.npz")
            model.load_state_dict({name: torch.from_numpy(given[name]) for name in given.files})
        else:
            model.paced = Paced(train, setup["num_steps"])
            model.fit(model.paced, validation_data=test)
        np.save(folder / "peer_predictions.npy", model.predict(test))
        answer(done=True)


if __name__ == "__main__":
    main()
