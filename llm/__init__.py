"""From a folder of documents to a trained transformer language model.

The pipeline's stages (``stages/``) are thin; everything they do is here, and reads in this order: ``config``,
``data``, ``tokenizer``, ``model``, ``training``, ``inference``, ``evaluate``, ``benchmark``, ``plots``, ``report``.
"""
