"""Video classifiers: tensors in, logits out; nothing here knows files, shards or jobs."""

from gopstream.models.catalogue import create_model, list_models

__all__ = ["create_model", "list_models"]
