"""Messages of jsonargparse, as it writes them, and the one line that is made of them."""

import pytest

from panda_anomalib.option_errors import say_in_one_line

_CLASSES = {"model": ("the name of a model", ["Dn2", "Panda"]), "data": ("the name of a datamodule", ["Demo"])}
_OPTIONS = ["--model", "--data", "--trainer.max_epochs"]

_UNION = """Parser key "model":
  Does not validate against any of the Union subtypes
  Subtypes: [<class 'NoneType'>, <class 'anomalib.models.components.base.anomalib_module.AnomalibModule'>]
  Errors:
    - Expected a <class 'NoneType'>
    - Problem with given class_path 'panda_anomalib.commands.did_you_mean':
        {inner}
  Given value type: <class 'jsonargparse._util.NestedArg'>
  Given value: NestedArg(key='x', val='y')"""
_NAME = """Parser key "{key}":

  - Expected a path but {name} either not accessible or invalid
  - Does not validate against any of the Union subtypes
  Subtypes: [<class 'NoneType'>, <class 'anomalib.models.components.base.anomalib_module.AnomalibModule'>]
  Errors:
    - Expected a <class 'NoneType'>
    - Expected a dot import path string: {name}
  Given value type: <class 'str'>
  Given value: {name}"""
_NUMBER = """Parser key "num_neighbors":
          Does not validate against any of the Union subtypes
          Subtypes: [<class 'NoneType'>, <class 'int'>]
          Errors:
            - Expected a <class 'NoneType'>
            - Expected a <class 'int'>
          Given value type: <class 'str'>
          Given value: two"""


@pytest.mark.parametrize(
    ("message", "line"),
    [
        ("Unrecognized arguments: --modle Dn2", "unknown option --modle; did you mean --model?"),
        ("Unrecognized arguments: --xyz=1", "unknown option --xyz."),
        ("Subcommand 'train' does not accept option 'dat'", "unknown option --dat; did you mean --data?"),
        (_NAME.format(key="model", name="dn2"), "--model must be the name of a model, got 'dn2'; did you mean 'Dn2'?"),
        (
            _NAME.format(key="data", name="Dmo"),
            "--data must be the name of a datamodule, got 'Dmo'; did you mean 'Demo'?",
        ),
        (
            "--model.help: Expected a dot import path string: Dn3",
            "--model must be the name of a model, got 'Dn3'; did you mean 'Dn2'?",
        ),
        (
            _UNION.format(
                inner="Parser key \"scorer\":\n  Expected a typing.Literal['knn', 'center']. Got value: knnn"
            ),
            "--model.scorer must be one of knn, center, got 'knnn'; did you mean 'knn'?",
        ),
        (_UNION.format(inner=_NUMBER), "--model.num_neighbors must be null or int, got 'two'; check it."),
        (
            _UNION.replace("Problem", "num_neighbors must be at least 1, got 0.\n    - Problem"),
            "num_neighbors must be at least 1, got 0.",
        ),
        ("Anything else\n  in two lines", "Anything else in two lines"),
    ],
)
def test_one_line(message: str, line: str) -> None:
    """The option, what it takes, what it got, and what is near."""
    assert say_in_one_line(message, _OPTIONS, _CLASSES) == line


def test_arguments_of_a_class_are_suggested() -> None:
    """By the signature of the class that the message names."""
    message = _UNION.replace("panda_anomalib.commands.did_you_mean", "fractions.Fraction")
    line = say_in_one_line(message.format(inner="Option 'numeratr' is not accepted"), _OPTIONS, _CLASSES)
    assert line == "unknown option --model.numeratr of Fraction; did you mean --model.numerator?"
