from . import records as records, resample as resample
from .classifier import Classifier as Classifier, Predictions as Predictions
from .dataset import waveform_dataset as waveform_dataset
from .embedder import Embedder as Embedder, embed as embed
from .embeddings import Embeddings as Embeddings
from .engines import Engine as Engine, open_engine as open_engine
from .explorer import explore as explore
from .exporting import (
    export_litert as export_litert,
    export_onnx as export_onnx,
    export_saved_model as export_saved_model,
)
from .frechet import (
    FadResult as FadResult,
    Statistics as Statistics,
    fad as fad,
    fad_per_recording as fad_per_recording,
    kad as kad,
)
from .frontend import LogMelExamples as LogMelExamples
from .model import VGGish as VGGish
from .postprocess import Postprocess as Postprocess
from .resample import load_audio as load_audio
from .similarity import Match as Match, search as search
from .weights import load_slim_checkpoint as load_slim_checkpoint, save_slim_checkpoint as save_slim_checkpoint

__version__: str
