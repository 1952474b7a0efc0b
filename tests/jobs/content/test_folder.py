"""A user's encoder gives its own vectors; a folder that does not fit is refused in a sentence."""

import io
import json
import pickle
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from jobs.content.encoders import open_encoder
from jobs.content.folder import open_folder
from jobs.content.texts import open_texts
from jobs.errors import ConfigError
from tests.jobs.content.catalogue import CONTENT, FIRST, arrive, config, embed, moment, vectors

PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "red", "blue", "mug", "lamp", "for", "tea", "##s"]
ABOUT = {"format": 1, "dim": 6, "max_tokens": 8, "batch_size": 4}
SHAPE = (4, 8)
TEXTS = ["red mug", "blue lamps for teas", "red red red red red red red red", "", "tea"]
WEIGHTS_CONFIG = "data/weights/model_weights_config.json"


class TinyEncoder(torch.nn.Module):
    """Embeddings, attention, a mean over what is no padding; random."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.embedding = torch.nn.Embedding(len(PIECES), 6)
            self.attention = torch.nn.MultiheadAttention(6, 2, batch_first=True)

    def forward(self, ids, mask):
        x = self.embedding(ids)
        x = x + self.attention(x, x, x, key_padding_mask=mask == 0, need_weights=False)[0]
        weight = mask[:, :, None].to(x.dtype)
        return (x * weight).sum(1) / weight.sum(1)


class PairEncoder(TinyEncoder):
    """Returns more than vectors."""

    def forward(self, ids, mask):
        return super().forward(ids, mask), mask


def write(folder, module, shapes=None):
    """The three files of a folder."""
    folder.mkdir()
    ids, mask = (torch.ones(SHAPE, dtype=torch.int64) for _ in range(2))
    program = torch.export.export(module.eval(), (ids, mask), dynamic_shapes=shapes)
    torch.export.save(program, folder / "model.pt2")
    (folder / "encoder.json").write_text(json.dumps(ABOUT))
    tokenizer = {
        "normalizer": {"type": "BertNormalizer", "lowercase": True},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "model": {"type": "WordPiece", "vocab": {p: i for i, p in enumerate(PIECES)}},
    }
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write(tmp_path_factory.mktemp("encoders") / "tiny", TinyEncoder())


@pytest.fixture(scope="module")
def encoder(folder):
    return open_folder(folder)


@pytest.fixture
def copy(folder, tmp_path):
    """The folder, to be broken."""
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def edit(folder, name, change):
    """Rewrite one part of the program's file; a new part where there was none."""
    path = folder / "model.pt2"
    with zipfile.ZipFile(path) as archive:
        parts = {entry: archive.read(entry) for entry in archive.namelist()}
    root = next(iter(parts)).split("/")[0]
    parts[f"{root}/{name}"] = change(parts.get(f"{root}/{name}", b""))
    with zipfile.ZipFile(path, "w") as archive:
        for entry, content in parts.items():
            archive.writestr(entry, content)


def replaced(old, new):
    def change(content):
        assert old.encode() in content
        return content.replace(old.encode(), new.encode(), 1)

    return change


def test_vectors_are_the_models_own_at_length_one(encoder):
    module = TinyEncoder().eval()
    for text, found in zip(TEXTS, encoder.encode(TEXTS), strict=True):
        ids = torch.tensor([[PIECES.index(p) for p in piece_list(text)]])
        with torch.no_grad():
            expected = torch.nn.functional.normalize(module(ids, torch.ones_like(ids)))[0]
        np.testing.assert_allclose(found, expected, atol=1e-5)


def piece_list(text):
    words = {"lamps": ["lamp", "##s"], "teas": ["tea", "##s"]}
    pieces = [piece for word in text.split() for piece in words.get(word, [word])]
    return ["[CLS]", *pieces[:6], "[SEP]"]


def test_the_company_of_a_text_does_not_change_its_vector(encoder):
    alone = np.concatenate([encoder.encode([text]) for text in TEXTS])
    np.testing.assert_allclose(alone, encoder.encode(TEXTS), atol=1e-6)


def test_the_version_is_that_of_the_files(encoder, copy):
    assert open_folder(copy).version == encoder.version
    about = json.loads((copy / "encoder.json").read_text())
    (copy / "encoder.json").write_text(json.dumps({**about, "pad_token": "[UNK]"}))
    assert open_folder(copy).version != encoder.version


def test_a_contract_names_the_folder(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "mine")
    content = {**CONTENT, "encoder": {"kind": "folder", "path": "mine"}}
    run = config(tmp_path, FIRST, content=content)
    arrive(run, [("mug", moment(FIRST, 9), "Red mug", "for tea")])
    done = embed(run)
    encoder = open_encoder(run, run.contract.content, open_texts(run, run.contract.content))
    assert encoder is not None
    assert done.details["encoder_version"] == encoder.version
    assert list(vectors(run).values()) == [encoder.encode(["red mug for tea"])[0].tolist()]


@pytest.mark.parametrize("name", ["encoder.json", "tokenizer.json", "model.pt2"])
def test_a_missing_file_is_named(copy, name):
    (copy / name).unlink()
    with pytest.raises(ConfigError, match=f"no file {name} in .*copy; a text encoder's folder"):
        open_folder(copy)


@pytest.mark.parametrize(
    ("about", "told"),
    [
        ({**ABOUT, "dim": 5}, r"become floats of \(4, 5\); found torch.float32 of \(4, 6\)"),
        ({**ABOUT, "batch_size": 2}, r"model.pt2: two int64 tensors of \(2, 8\) .*it failed"),
        ({**ABOUT, "format": 2}, r"encoder.json: format"),
        ({**ABOUT, "size": 2}, r"encoder.json: unknown key size"),
        ({**ABOUT, "first_token": "<s>"}, r"tokenizer.json: the special token '<s>' is not"),
    ],
)
def test_what_the_folder_says_of_itself_is_held_against_it(copy, about, told):
    (copy / "encoder.json").write_text(json.dumps(about))
    with pytest.raises(ConfigError, match=told):
        open_folder(copy)


@pytest.mark.parametrize(
    ("name", "change", "told"),
    [
        (WEIGHTS_CONFIG, replaced('"use_pickle": false', '"use_pickle": true'), "pickled ones"),
        ("models/model.json", replaced("torch.ops.aten.add.Tensor", "torch.hub.load"), "ATen's"),
        (
            "models/model.json",
            replaced('"guards_code": []', '"guards_code": ["x"]'),
            "found symbolic expressions",
        ),
        ("models/model.json", lambda _: b"{", "no exported program can be read"),
        ("data/aotinductor/model/x.so", lambda _: b"", "found .*data/aotinductor/model/x.so"),
        ("data/constants/custom_obj_0", lambda _: b"", "found .*data/constants/custom_obj_0"),
    ],
)
def test_a_program_that_is_more_than_data_is_refused(copy, name, change, told):
    edit(copy, name, change)
    with pytest.raises(ConfigError, match=told):
        open_folder(copy)


class Trap:
    """What a pickle does when it is read."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def test_no_pickle_is_ever_run(copy, tmp_path):
    sprung = tmp_path / "sprung"
    buffer = io.BytesIO()
    torch.save(Trap(sprung), buffer, pickle_module=pickle)
    edit(copy, "data/sample_inputs/model.pt", lambda _: buffer.getvalue())
    with pytest.raises(ConfigError, match="sample inputs are tensors alone"):
        open_folder(copy)
    assert not sprung.exists()
    torch.load(io.BytesIO(buffer.getvalue()), weights_only=False)
    assert sprung.exists(), "the trap works"


def test_a_program_of_changing_shapes_is_refused(tmp_path):
    batch = torch.export.Dim("batch", max=64)
    shapes = {"ids": {0: batch}, "mask": {0: batch}}
    with pytest.raises(ConfigError, match="its shapes are fixed; found symbolic"):
        open_folder(write(tmp_path / "dynamic", TinyEncoder(), shapes))


def test_a_program_that_returns_more_than_one_tensor_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="found a tuple; return one tensor"):
        open_folder(write(tmp_path / "pair", PairEncoder()))
