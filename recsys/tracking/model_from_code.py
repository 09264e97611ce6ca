"""The code that MLflow keeps with a logged model and runs when it loads one: no object is pickled."""

from mlflow.models import set_model

from recsys.tracking.pyfunc_model import LoggedModel

set_model(LoggedModel())
