from . import errors as errors
from .checkpoint import Architecture as Architecture
from .checkpoint import Checkpoint as Checkpoint
from .tasks import Preprocessing as Preprocessing
from .tasks import TaskSpec as TaskSpec
from .train.loading import load as load

__version__: str
