from .loading import load as load
from .loop import TrainResult as TrainResult
from .recipe import Recipe as Recipe
from .recipe import load_recipe as load_recipe
from .run import train as train
