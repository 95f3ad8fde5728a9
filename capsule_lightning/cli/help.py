"""What ``--help`` prints."""

from __future__ import annotations

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
    choices = "\n".join(f"  {slot:<24}{', '.join(class_names(slot))}" for slot in SLOTS)
    return f"""usage: python -m {PROGRAM} {command} [--config NAME]... [--key.subkey VALUE]...

{COMMANDS[command].summary}

  --config NAME           a YAML file or a shipped config ({PROGRAM} configs); may be repeated, later ones win over
                          earlier ones, and options over all of them
  --print_config          show the resolved configuration and stop
  --ckpt_path NETWORK     fit: checkpoint to resume. Others: the network to measure, also as the first word: a
                          checkpoint, a run's folder or id, best or last of the newest run (default: best), a
                          .safetensors file of export, or a shipped one: efficient_capsnet_mnist. Its run's
                          configuration is taken along
  --init_from NETWORK     fit: begin from the weights of a network, as far as they fit
  --import MODULE         a module of your own that defines classes of the network
  --resume [RUN]          fit: resume a run from its newest good checkpoint (its folder or id; else the newest run)
  --runs FOLDER           folder of the runs: FOLDER/<experiment>/<run id>   (default: runs)
  --experiment NAME       runs that belong together
  --seed_everything N     (default: 0)
  --test_after_fit BOOL   end fit with a test of its result   (default: true)

  --data.root FOLDER      folder of the data   (default: $CAPSULE_LIGHTNING_DATA, else data)
  --data.batch_size N     of all processes together
  --data.val_size N       images, or fraction, held out of the training set; 0 to train on all
  --data.images PATH ...  predict: image files, folders of them, or a pattern such as 'photos/*.png'
  --output FILE.csv       predict: the table of predictions   (default: in the run's folder)
  --poses FILE.npz        predict: also names, classes, lengths and poses as arrays
  --overwrite             predict: replace these files if they are there

  --trainer.max_epochs N  --trainer.precision 32-true|bf16-mixed|16-mixed  --trainer.gradient_clip_val X
  --trainer.devices N     --trainer.strategy ddp     --trainer.accelerator cpu|gpu|auto

by class name, each with its own options (--model.net.routing.iterations 2; --model.net.routing.help NAME lists them):
{choices}

  {command} --help_all    every option"""
