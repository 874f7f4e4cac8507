"""Columns that several tables share, so that a name means the same thing everywhere."""

import pyarrow as pa

from assets.lake.tables import FINGERPRINT, Column

SHARD = Column("shard", pa.string(), "Shard of the corpus: the unit of work and retry, one Dagster partition.")
POSITION = Column("position", pa.int64(), "Order of the row within its shard or table; Delta itself keeps none.")
RECORD_ID = Column("record_id", pa.string(), "The source record's own id, or its file and line.")
DOCUMENT_ID = Column(
    "document_id", pa.string(), "Stable id of a document: its record's id, '#', and its window's number."
)
SOURCE = Column("source", pa.string(), "Where the document is from (code, encyclopedia, …).")
QUERY_ID = Column("query_id", pa.string(), "Id of the query within its set.")
METHOD = Column(
    "method",
    pa.string(),
    "How documents are scored: ekfac, kfac or astra (influence), dot or cosine (of gradients), trackstar (cosine of "
    "whitened gradients), bm25 (of words).",
)
MODULE = Column("module", pa.string(), "Name of the tracked module in the model.")
TOKEN_IDS = Column("token_ids", pa.list_(pa.int32()), "The document's tokens, special ones included.")
TOKENIZER = Column("tokenizer_fingerprint", pa.string(), "Digest of the tokenizer; it must equal the model's.")
STAMP = Column(FINGERPRINT, pa.string(), "Digest of code version, settings and inputs that the row was computed from.")
