"""anomalib's command line with what differs in ours; heavy to import, see `panda_anomalib.cli`."""

import inspect
import logging
import random
import re
import sys
import warnings
from collections.abc import Sequence
from typing import Any, NoReturn

from anomalib.cli import AnomalibCLI
from anomalib.cli.utils import help_formatter as host
from anomalib.data import AnomalibDataModule
from anomalib.models.components import AnomalibModule
from jsonargparse import ActionConfigFile, ArgumentParser
from rich.markdown import Markdown
from rich.panel import Panel

from panda_anomalib import __version__
from panda_anomalib.adaptation.fisher_command import make_fisher_file
from panda_anomalib.commands import EVALUATING, FITTING, PROGRAM, SUBCOMMANDS, did_you_mean
from panda_anomalib.models.adapted import AdaptationMixin

__all__ = ["PandaCLI"]

logger = logging.getLogger(__name__)


def _concrete_subclasses(base: type) -> list[type]:
    found: list[type] = []
    below: list[type] = base.__subclasses__()
    for direct in below:
        found += [*([] if inspect.isabstract(direct) else [direct]), *_concrete_subclasses(direct)]
    return found


class _Parser(ArgumentParser):
    """Parser that names the nearest known option when it refuses one."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        if option := re.match(r"Unrecognized arguments: (--[^\s=]+)", message):
            commands = self._subcommands_action._name_parser_map if self._subcommands_action else {}
            parser = next((commands[word] for word in self.args if word in commands), self)
            known = [option for action in parser._actions for option in action.option_strings]
            message += did_you_mean(option[1], known)
        elif name := re.search(r"Expected a dot import path string: (\w+)", message):
            classes: list[type] = [*AnomalibModule.__subclasses__(), *_concrete_subclasses(AnomalibDataModule)]
            message += did_you_mean(name[1], [known.__name__ for known in classes])
        super().error(message, ex)


class _HelpFormatter(host.CustomHelpFormatter):
    """anomalib's help, with the name of this program in its examples."""

    def format_help(self) -> str:
        if self.subcommand not in host.REQUIRED_ARGUMENTS or self.verbosity_level > 1:
            return str(super().format_help())
        usage = host.get_cli_usage_docstring(host.DOCSTRING_USAGE[self.subcommand]) or ""
        guide = f"{usage}\n{host.get_verbose_usage(self.subcommand)}"
        guide = re.sub(r"\banomalib (?=[a-z])", f"{PROGRAM} ", guide)
        with self.console.capture() as capture:
            self.console.print(host.get_intro())
            self.console.print(Panel(Markdown(guide), border_style="dim", title="Quick-Start", title_align="left"))
            if self.verbosity_level == 1:
                self.console.print(Panel(self._root_section, border_style="dim", title="Arguments"))
        return capture.get()


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
        formatter.verbosity_level = 1 if "-v" in arguments else 0 if asked and "-vv" not in arguments else 2
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
        parser.error(message)

    def instantiate_classes(self) -> None:
        """Build model, data and engine; ``train`` honours the optimizer as ``fit`` does."""
        super().instantiate_classes()
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
        from lightning.pytorch.cli import SaveConfigCallback

        from panda_anomalib.engine import Engine

        arguments = dict(self._get(self.config_init, "trainer", default={}))
        callbacks = arguments["callbacks"] or []
        callbacks = list(callbacks) if isinstance(callbacks, list) else [callbacks]
        if not arguments.get("fast_dev_run"):
            name = "config.yaml" if self.subcommand in FITTING else f"config.{self.subcommand}.yaml"
            parser: Any = self._parser(self.subcommand)
            config = self.config[self.subcommand]
            callbacks.append(SaveConfigCallback(parser, config, config_filename=name, overwrite=True))
        arguments["callbacks"] = callbacks + get_callbacks(self.config[self.subcommand])
        self.engine = Engine(**arguments)

    def _run_subcommand(self) -> None:
        super()._run_subcommand()
        if self.subcommand in FITTING and self.engine.trainer.is_global_zero:
            from panda_anomalib.next_steps import describe_training

            sys.stdout.write(describe_training(self.engine.best_model_path, self.datamodule))
