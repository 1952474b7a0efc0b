"""Turn the texts of items into vectors, each text once per encoder.

Reads the attributes table that the contract's `content` names, as far as the run's day. Writes
`content_embeddings`, in one commit, and a fitted encoder in `encoders/`. Guarantees: what has a
vector is not computed again; a vector is of one text, so that a later correction of an item's text
changes no vector; rows of earlier encoders stay. Without `content` in the contract it does nothing.

Texts are read file by file and encoded in batches, in this process: what is held at once is a hash
per change of a text and the new vectors; of the texts themselves a batch, or the sample that an
encoder is fitted on. A cluster would have to start before it could help, and a day's new items are
few.

    python -m jobs.embed_content --config var/runs/<run>/config.json
"""

# pyright: reportAttributeAccessIssue=false
# pyarrow.compute makes its functions when imported.

from __future__ import annotations

import time

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from jobs import delta
from jobs.command import JobSummary, log, main
from jobs.config import RunConfig
from jobs.content.encoders import Encoder, open_encoder
from jobs.content.texts import Texts, open_texts
from jobs.content.vectors import TABLE, add, vectors_of, without_vector

_BATCH_TEXTS = 4096


def run(config: RunConfig) -> JobSummary:
    """Embed what is new."""
    content = config.contract.content
    if content is None:
        return JobSummary(job="embed_content", details={"content": "none declared"})
    texts = open_texts(config, content)
    encoder = open_encoder(config, content, texts)
    uri = config.table(TABLE)
    table = delta.open_table(uri)
    version = None if table is None else table.version()
    details: dict[str, object] = {"encoder_version": None}
    added = 0
    if encoder is not None:
        fresh = without_vector(table, encoder.version, texts.states())
        wanted = fresh["content_hash"].unique()
        stored, held = vectors_of(table, encoder.version, wanted, encoder.dim)
        new = wanted.filter(pc.invert(pc.is_in(wanted, value_set=stored)))
        computed, made = _encoded(texts, encoder, new)
        hashes = pa.chunked_array([stored, computed])
        at = pc.index_in(fresh["content_hash"], value_set=hashes.combine_chunks()).to_numpy()
        added = fresh.num_rows
        if added:
            vectors = np.concatenate([held, made])[at]
            version = add(uri, table, encoder.version, fresh, vectors, config.run.run_id)
        details = {
            "encoder_version": encoder.version,
            "dim": encoder.dim,
            "texts_encoded": len(new),
            "rows_reused": int(np.sum(at < len(stored))),
        }
    return JobSummary(
        job="embed_content",
        inputs={texts.table: texts.version},
        outputs={TABLE: version},
        rows={TABLE: added},
        details=details,
    )


def _encoded(texts: Texts, encoder: Encoder, hashes: pa.Array) -> tuple[pa.Array, np.ndarray]:
    """Vectors of texts, in the order in which the files hold them."""
    started = time.monotonic()
    names: list[str] = []
    vectors = np.zeros((len(hashes), encoder.dim), np.float32)
    if len(hashes):
        for batch in texts.of(hashes, _BATCH_TEXTS):
            vectors[len(names) : len(names) + len(batch)] = encoder.encode(list(batch.values()))
            names += batch
        log.info("content: %d texts encoded in %.1f s", len(names), time.monotonic() - started)
    return pa.array(names, pa.string()), vectors


if __name__ == "__main__":
    main(run, __doc__)
