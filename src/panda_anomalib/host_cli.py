"""anomalib's command line with what differs in ours; heavy to import, see `panda_anomalib.cli`."""

import inspect
import logging
import os
import random
import sys
import warnings
from argparse import Action
from collections.abc import Sequence
from typing import Any, NoReturn

from anomalib.cli import AnomalibCLI
from anomalib.cli.utils import help_formatter as host
from anomalib.data import AnomalibDataModule
from anomalib.models.components import AnomalibModule
from jsonargparse import ActionConfigFile, ArgumentParser

from panda_anomalib import __version__
from panda_anomalib.adaptation.fisher_command import make_fisher_file
from panda_anomalib.commands import EVALUATING, FITTING, PROGRAM, SUBCOMMANDS
from panda_anomalib.models.adapted import AdaptationMixin
from panda_anomalib.option_errors import refusal_of_constructor, say_in_one_line

__all__ = ["PandaCLI"]

logger = logging.getLogger(__name__)

_MOST_CLASSES = 60  # that help lists by name


def _concrete_subclasses(base: type) -> list[str]:
    found: list[str] = []
    below: list[type] = base.__subclasses__()
    for direct in below:
        found += [*([] if inspect.isabstract(direct) else [direct.__name__]), *_concrete_subclasses(direct)]
    return found


class _HelpFormatter(host.CustomHelpFormatter):
    """anomalib's help without its guide, for which our examples stand in, and without endless lists of classes."""

    def format_help(self) -> str:
        return str(super(host.CustomHelpFormatter, self).format_help())

    def _get_help_string(self, action: Action) -> str:
        kind = str(self._get_type_str(action) or "").replace("%", "%%")  # which rich_argparse loses
        text = str(super()._get_help_string(action)).replace("%(type)s", kind)
        text, _, classes = text.partition(", known subclasses: ")
        if not classes:
            return text
        names = [path.rpartition(".")[2] for path in classes.removesuffix(")").split(", ")]
        # of torch.nn.Module there are more than a thousand
        return f"{text}, {f'one of {len(names)} classes' if len(names) > _MOST_CLASSES else ', '.join(names)})"


class _Parser(ArgumentParser):
    """Parser that says in one line what it refuses, with the nearest that it knows."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("formatter_class", _HelpFormatter)  # also of the parser behind --model.help
        super().__init__(*args, **kwargs)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        if not self.exit_on_error or os.environ.get("PANDA_ANOMALIB_TRACEBACK") == "1":
            super().error(message, ex)  # raises, for a parser of which this is the inside
        commands = self._subcommands_action._name_parser_map if self._subcommands_action else {}
        parser = next((commands[word] for word in self.args if word in commands), self)
        known = [option for action in parser._actions for option in action.option_strings]
        classes = {
            "model": ("the name of a model", _concrete_subclasses(AnomalibModule)),
            "data": ("the name of a datamodule", _concrete_subclasses(AnomalibDataModule)),
        }
        self.exit(2, f"error: {say_in_one_line(message, known, classes)}\n")


class PandaCLI(AnomalibCLI):
    """anomalib's command line with our models, subcommands and mends."""

    def __init__(self, args: Sequence[str] | None = None, run: bool = True) -> None:  # noqa: FBT001, FBT002 - anomalib's
        from anomalib.cli.pipelines import PIPELINE_REGISTRY

        from panda_anomalib.backbones.timm_weights import offer_packaged_weights
        from panda_anomalib.registration import register

        register()
        offer_packaged_weights()  # to anomalib's models, which would ask the hub
        arguments = list(sys.argv[1:] if args is None else args)
        formatter: Any = _HelpFormatter
        asked = {"-h", "--help"} & set(arguments)  # anomalib's formatter looks at the process's arguments, not at these
        formatter.subcommand = arguments[0] if arguments else None
        formatter.verbosity_level = 1 if asked and "-v" in arguments else 2
        pipelines = PIPELINE_REGISTRY or {}
        plain = dict(pipelines)
        pipelines.pop("benchmark", None)  # ours is a tool of its own
        try:
            super().__init__(arguments, run)
        finally:
            pipelines.update(plain)  # anomalib's own command in this process stays what it is

    @staticmethod
    def init_parser(**kwargs: Any) -> ArgumentParser:
        """Parser with our program's name."""
        kwargs.setdefault("dump_header", [f"{PROGRAM}=={__version__}"])
        parser = _Parser(prog=PROGRAM, formatter_class=_HelpFormatter, **kwargs)
        parser.add_argument("-c", "--config", action=ActionConfigFile, help="Path to a configuration file.")
        return parser

    def add_subcommands(self, **kwargs: Any) -> None:
        """Add anomalib's subcommands; those that fit or evaluate require ``--data``."""
        super().add_subcommands(**kwargs)
        for name, parser in self.subcommand_parsers.items():
            parser.prog = f"{PROGRAM} {name}"
        for name in (*FITTING, *EVALUATING):
            self.subcommand_parsers[name].required_args.add("data")

    @staticmethod
    def anomalib_subcommands() -> dict[str, dict[str, str]]:
        """Subcommands of anomalib, and ours."""
        return {**AnomalibCLI.anomalib_subcommands(), "fisher": {"description": SUBCOMMANDS["fisher"]}}

    @staticmethod
    def add_fisher_arguments(parser: ArgumentParser) -> None:
        """Arguments of ``fisher``: those of the function that does it."""
        parser.add_function_arguments(make_fisher_file)

    def fisher(self) -> None:
        """Write a Fisher file."""
        make_fisher_file(**{name: value for name, value in self.config_init["fisher"].items() if name != "config"})

    @staticmethod
    def _add_default_arguments_to_parser(parser: ArgumentParser) -> None:
        parser.add_argument(
            "--seed_everything",
            type=bool | int,
            default=True,
            help="Seed of every random number, set before anything is built: a whole number from 0 to 4294967295, "
            "true for a random one (which the log tells), false for none.",
        )

    def before_instantiate_classes(self) -> None:
        """Refuse a checkpoint that is not there and set the seed, before anything is built."""
        super().before_instantiate_classes()
        if self.subcommand in {*FITTING, *EVALUATING, "export"}:
            from panda_anomalib.engine import existing_checkpoint

            existing_checkpoint(self._get(self.config, "ckpt_path"))
            self._seed()

    def _seed(self) -> None:
        from lightning import seed_everything

        seed = self._get(self.config, "seed_everything")
        if seed is False:
            return
        if seed is True:
            seed = random.SystemRandom().randrange(2**32)
        if not 0 <= seed < 2**32:
            self._refuse(f"seed_everything must be from 0 to 4294967295, or true or false, got {seed}.")
        seed_everything(seed, workers=True, verbose=False)
        self.config[self.subcommand]["seed_everything"] = seed  # the saved configuration repeats this run
        logger.info("Seed %d; --seed_everything %d repeats this run.", seed, seed)

    def _refuse(self, message: str) -> NoReturn:
        parser: ArgumentParser = self._parser(self.subcommand)
        parser.exit(2, f"error: {message}\n")

    def instantiate_classes(self) -> None:
        """Build model, data and engine; ``train`` honours the optimizer as ``fit`` does."""
        try:
            super().instantiate_classes()
        except ValueError as error:
            reason = refusal_of_constructor(str(error))
            if not reason or os.environ.get("PANDA_ANOMALIB_TRACEBACK") == "1":
                raise
            self._refuse(reason)
        if isinstance(getattr(self, "model", None), AdaptationMixin):  # its budget is in minibatches
            warnings.filterwarnings("ignore", message="`max_epochs` was not set")
        if self.subcommand == "train":
            self._configure_optimizers_method_to_model()
        if self.subcommand in {*EVALUATING, "export"} and not self._get(self.config, "ckpt_path"):
            self._require_training()

    def _require_training(self) -> None:
        from anomalib import LearningType
        from anomalib.data import AnomalibDataModule

        from panda_anomalib.engine import newest_checkpoint

        if self.model.learning_type in {LearningType.ZERO_SHOT, LearningType.FEW_SHOT}:
            return
        data = self.datamodule if isinstance(self.datamodule, AnomalibDataModule) else None
        newest = newest_checkpoint(self._get(self.config, "default_root_dir"), self.model, data)
        advice = f"the newest here is {newest}" if newest else f"make one with: {PROGRAM} train --model ... --data ..."
        self._refuse(f"{self.subcommand} needs --ckpt_path, the checkpoint of a trained {self.model.name}; {advice}")

    def instantiate_engine(self) -> None:
        """Build our Engine; evaluations keep the configuration of the training that shares their folder."""
        from anomalib.callbacks import get_callbacks
        from lightning.pytorch.callbacks import ProgressBar

        from panda_anomalib.callbacks import StepProgressBar
        from panda_anomalib.engine import Engine
        from panda_anomalib.whole_files import WholeConfig

        arguments = dict(self._get(self.config_init, "trainer", default={}))
        callbacks = arguments["callbacks"] or []
        callbacks = list(callbacks) if isinstance(callbacks, list) else [callbacks]
        if not arguments.get("fast_dev_run"):
            name = "config.yaml" if self.subcommand in FITTING else f"config.{self.subcommand}.yaml"
            parser: Any = self._parser(self.subcommand)
            config = self.config[self.subcommand]
            callbacks.append(WholeConfig(parser, config, name))
        shown = arguments.get("enable_progress_bar") is not False
        if shown and not any(isinstance(callback, ProgressBar) for callback in callbacks):
            callbacks.append(StepProgressBar())
        arguments["callbacks"] = callbacks + get_callbacks(self.config[self.subcommand])
        self.engine = Engine(**arguments)

    def _run_subcommand(self) -> None:
        super()._run_subcommand()
        if self.subcommand in FITTING and self.engine.trainer.is_global_zero:
            from panda_anomalib.next_steps import describe_training

            sys.stdout.write(describe_training(self.engine.best_model_path, self.datamodule))
