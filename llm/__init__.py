"""From a folder of documents to a trained transformer language model.

The pipeline's stages (``stages/``) are thin; the work is done here. A good order to read it in: ``config``, ``data``,
``tokenizer``, ``model``, ``training``, ``inference``, ``evaluate``, ``benchmark``, ``report``.
"""
