"""What ``--help`` prints."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from capsule_lightning.cli.commands import COMMANDS
from capsule_lightning.components.names import SLOTS, class_names
from capsule_lightning.shipped import PROGRAM


def help_text() -> str:
    """What ``--help`` prints."""
    commands = "\n".join(f"  {name:<10}{command.summary}" for name, command in COMMANDS.items())
    return f"""usage: python -m {PROGRAM} COMMAND [--config NAME]... [--key.subkey VALUE]...

Capsule-network experiments in PyTorch Lightning.

commands:
{commands}

  COMMAND --help      the options of a command; --help_all for every last one
  --version           the version
  --debug             show the traceback of an error

examples:
  python -m {PROGRAM} fit                                     train on the embedded digits
  python -m {PROGRAM} fit --config mnist.yaml                 the paper's network on MNIST
  python -m {PROGRAM} fit --config mnist.yaml --model.net.routing UniformRouting
  python -m {PROGRAM} test                                    the newest run's best checkpoint
  python -m {PROGRAM} predict ID --data.images photos/        a run by its id, or a file of it
  python -m {PROGRAM} export runs/mnist/ID --output mnist.onnx
  python -m {PROGRAM} report efficient_capsnet_mnist          a network that comes with the package
  python -m {PROGRAM} compare --config studies/digits_routings.yaml"""


def training_help(command: str) -> str:
    """The options of a training command that one uses, on one screen."""
    return fit_help() if command == "fit" else measuring_help(command)


def fit_help() -> str:
    """The options of ``fit`` that one uses."""
    choices = "\n".join(f"  {slot:<24}{_list(class_names(slot))}" for slot in SLOTS)
    return f"""usage: python -m {PROGRAM} fit [--config NAME]... [--key.subkey VALUE]...

{COMMANDS["fit"].summary}

  --config NAME           a YAML file or a shipped config ({PROGRAM} configs); may be repeated, later ones win over
                          earlier ones, and options over all of them, wherever they stand
  --print_config          show the resolved configuration and stop
  --resume [RUN]          resume a run from its newest good checkpoint (its folder or id; else the newest run)
  --ckpt_path FILE        the checkpoint to resume from; its run's configuration is taken along
  --init_from NETWORK     begin from the weights of a network, as far as they fit
  --import MODULE         a module of your own that defines classes of the network
  --trust_run             resume a run of somebody else although its configuration could run code, see SECURITY.md
  --runs FOLDER           folder of the runs: FOLDER/<experiment>/<run id>   (default: runs)
  --experiment NAME       runs that belong together
  --folds N [--fold K]    cross-validation: a run for each of N parts of your own data, or for part K alone
  --run_id NAME           name of this run   (default: drawn, from the time)
  --seed_everything N     (default: 0)
  --test_after_fit BOOL   end with a test of the result   (default: true)

  --data.root FOLDER      folder of the data   (default: $CAPSULE_LIGHTNING_DATA, else data)
  --data.batch_size N     of all processes together
  --data.val_size N       images, or fraction, held out of the training set; 0 to train on all

  --model.optimizer NAME  AdamW or another of torch.optim   --model.optimizer.lr X
  --model.reconstruction_weight X   of the reconstruction in the loss

  --trainer.max_epochs N  --trainer.precision 32-true|bf16-mixed|16-mixed  --trainer.gradient_clip_val X
  --trainer.devices N     --trainer.strategy ddp     --trainer.accelerator cpu|gpu|auto
  --trainer.callbacks+ NAME   --trainer.logger NAME   one more callback of Lightning or of yours; another logger

by class name, each with its own options (--model.net.routing.iterations 2; --model.net.routing.help NAME lists them);
a class in a file of your own by its dotted name, my_routing.MyRouting:
{choices}

  fit --help_all          every option"""


def measuring_help(command: str) -> str:
    """The options of a command that measures or uses a trained network."""
    own = PREDICTS if command == "predict" else MEASURES
    return f"""usage: python -m {PROGRAM} {command} [NETWORK] [--key.subkey VALUE]...

{COMMANDS[command].summary}

  NETWORK, --ckpt_path    a checkpoint, a run's folder or id, best or last of the newest run (default: best), a
                          .safetensors file of export, or the name of a shipped one: efficient_capsnet_mnist
{own}
  --data.batch_size N     images at a time
  --import MODULE         a module of your own that defines classes of the network
  --trainer.accelerator cpu|gpu|auto     --trainer.precision 32-true|bf16-mixed|16-mixed
  --config NAME           a YAML file or a shipped config, laid over the run's
  --print_config          show the resolved configuration and stop

  {command} --help_all{" " * (13 - len(command))}every option"""


MEASURES = "  --data.root FOLDER      folder of the data, if it has moved since training"
PREDICTS = """  --data.images PATH ...  images, folders of them, a table of paths, or a pattern such as 'a/*.png'
                          (default: the test images)
  --output FILE           the table of predictions, .csv or .parquet   (default: in the run's folder)
  --embeddings FILE.npz   also names, classes, lengths and poses of the class capsules as arrays
  --overwrite             replace these files if they are there"""


def _list(names: Sequence[str]) -> str:
    """The names, over as many lines as they need."""
    return f"\n{' ' * 26}".join(textwrap.wrap(", ".join(names), 84))
