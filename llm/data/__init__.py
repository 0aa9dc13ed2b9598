"""From source files to token shards.

A document goes through these modules, in this order:

- discover: `ingest.discover` lists the files of the source folder. `ingest.scheduler` hands them to `workers`, where
  `ingest.tasks` runs each of the next steps up to clean.
- identify: `readers.identify` and `readers.file_types`
- unpack and chunk: `readers.archives`, `readers.records`
- read: the reader that `modalities` names: `readers.pdf`, `readers.image`, `readers.code` or `readers.text`
- recognize: `readers.ocr`
- clean: `quality.cleaning`, which scrubs and filters
- dedup: `ingest.dedup`, by `quality.near_duplicates`; then `quality.boilerplate`
- split: `split`
- write: `documents`; `ingest.pipeline` runs all steps so far
- tokenize: `tokenization`, to the files of `token_shards`; `overlap` measures what is in train and held out
"""
