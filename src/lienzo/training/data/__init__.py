"""Training data: from folders, tables and tars to batches that are a pure function of the step."""

from lienzo.training.data.cache import Cache, wanted_latent, wanted_text
from lienzo.training.data.config import DataConfig, Source
from lienzo.training.data.dataset import Dataset, Record, load_data
from lienzo.training.data.pixels import Batch, Loader
from lienzo.training.data.plan import Draw, Plan, plan
from lienzo.training.data.report import html, report
from lienzo.training.data.sources import Skipped

__all__ = [
    "Batch",
    "Cache",
    "DataConfig",
    "Dataset",
    "Draw",
    "Loader",
    "Plan",
    "Record",
    "Skipped",
    "Source",
    "html",
    "load_data",
    "plan",
    "report",
    "wanted_latent",
    "wanted_text",
]
