"""Wrong input is answered by one line that says what to do, with status 2; nothing is made, changed or lost by it."""

import gzip
import os
import shlex
import shutil
import struct
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiers import nightly_but

from capsule_lightning.cli import main
from capsule_lightning.errors import InputError

Make = Callable[[Path], object]

NET = "--model.net.encoder.channels 4 --model.net.encoder.num_types 2 --model.net.decoder null"
FIT = f"fit {NET} --trainer.max_epochs 1 --trainer.limit_train_batches 2 --test_after_fit false"
RUN = "runs/digits/one"
LAST = f"{RUN}/checkpoints/last.ckpt"
TEST = f"test --ckpt_path {LAST}"
PREDICT = f"predict --ckpt_path {LAST} --data.images"
PHOTOS = "fit --config image_folder --data.root photos --trainer.max_epochs 1 --trainer.limit_train_batches 1"
MNIST = "fit --config mnist --data.download false --data.val_size 0.25 --data.batch_size 4 --trainer.max_epochs 1"
ARRAYS = "fit --config arrays --trainer.max_epochs 1 --trainer.limit_train_batches 1 --data.path"
CIFAR = "fit --config cifar10 --data.download false"
EM = f"{FIT} --model.net.routing EMRouting --model.net.routing"
STOP = f"{FIT} --trainer.callbacks+=EarlyStopping --trainer.callbacks"
KEEP = f"{FIT} --trainer.callbacks=RunCheckpoint --trainer.callbacks"


def mine(text: str | bytes) -> Make:
    """The config of the user."""
    return lambda folder: (folder / "mine.yaml").write_bytes(text.encode() if isinstance(text, str) else text)


def file(name: str, content: bytes = b"") -> Make:
    return lambda folder: (folder / name).write_bytes(content)


def photos(where: str = "photos", classes: str = "cat dog", count: int = 12, mode: str = "RGB", size: int = 32) -> Make:
    """A tree of class folders."""

    def make(folder: Path) -> None:
        for name in classes.split():
            (folder / where / name).mkdir(parents=True, exist_ok=True)
            for number in range(count):
                Image.new(mode, (size, size)).save(folder / where / name / f"{number}.png")

    return make


def among(name: str, content: bytes) -> Make:
    """A tree with one file more."""
    return lambda folder: (photos()(folder), (folder / "photos" / name).write_bytes(content))


def numbers(array: np.ndarray) -> bytes:
    """A file as MNIST has them: magic number, shape, bytes."""
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


def raw(images: bytes = numbers(np.zeros((40, 28, 28))), labels: bytes = numbers(np.arange(40) % 10)) -> Make:
    """MNIST's files, two of which are given."""

    def make(folder: Path) -> None:
        files = folder / "data" / "MNIST" / "raw"
        files.mkdir(parents=True)
        for name, content in (("images-idx3-ubyte", images), ("labels-idx1-ubyte", labels)):
            (files / f"train-{name}").write_bytes(content)
            (files / f"t10k-{name}").write_bytes(content)

    return make


def stored(
    images: np.ndarray | None = None, labels: np.ndarray | None = None, harm: Make | None = None
) -> Callable[[Path], None]:
    """A prepared MNIST."""

    def make(folder: Path) -> None:
        for split in ("train", "test"):
            there = folder / "data" / "prepared" / "mnist" / split
            there.mkdir(parents=True)
            np.save(there / "images.npy", np.zeros((40, 1, 28, 28), np.uint8) if images is None else images)
            np.save(there / "labels.npy", np.arange(40) % 10 if labels is None else labels)
            (there / "source.json").write_text('{"fingerprint": null}')
        if harm is not None:
            harm(folder / "data" / "prepared" / "mnist" / "train")

    return make


def arrays(harm: Make | None = None, **others: np.ndarray) -> Make:
    """Images in an archive, of which some arrays are given."""

    def make(folder: Path) -> None:
        usual = {"images": np.zeros((40, 28, 28), np.uint8), "labels": np.arange(40) % 2}
        np.savez(folder / "a.npz", **(usual | others))
        if harm is not None:
            harm(folder / "a.npz")

    return make


def archive(folder: Path) -> None:
    """CIFAR-10's archive, a part of it."""
    (folder / "data").mkdir()
    (folder / "data" / "cifar-10-python.tar.gz").write_bytes(gzip.compress(bytes(range(256)) * 20)[:200])


def half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def one_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def last(harm: Make) -> Make:
    """Harm the last checkpoint of the run."""
    return lambda folder: harm(folder / LAST)


def state(**more: object) -> Make:
    """A last checkpoint in which something else stands; what is None is left out."""

    def make(folder: Path) -> None:
        found = torch.load(folder / LAST, weights_only=True) | more
        torch.save({key: value for key, value in found.items() if value is not None}, folder / LAST)

    return make


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


#: A picture of a few hundred bytes that would fill a gigabyte.
BOMB = (
    b"\x89PNG\r\n\x1a\n"
    + chunk(b"IHDR", struct.pack(">IIBBBBB", 30000, 30000, 8, 0, 0, 0, 0))
    + chunk(b"IDAT", zlib.compress(bytes(30001)))
    + chunk(b"IEND", b"")
)

#: What is typed, what the answer says, and what must be there first.
CASES: list[tuple[str, str, list[str], Make | None]] = [
    # commands and words
    ("command", "fti", ["no command 'fti'", "did you mean 'fit'"], None),
    ("no-command", "train", ["no command 'train'", "expected one of fit"], None),
    ("configs-unknown", "configs mnits", ["no config 'mnits'", "did you mean 'mnist.yaml'"], None),
    ("prepare-unknown", "prepare mnits", ["no data set 'mnits'", "did you mean 'mnist'"], None),
    ("prepare-nothing", "prepare", ["needs the name of a data set", "smallnorb"], None),
    ("prepare-option", "prepare mnist --rot x", ["no option '--rot'; expected --root"], None),
    ("prepare-value", "prepare mnist --root", ["--root", "expected one argument"], None),
    ("prepare-file", "prepare cifar10 --root file", ["file: cannot be the folder", "--data.root"], file("file", b"x")),
    ("no-hyphens", "fit mnist", ["unrecognized arguments: mnist", "--config mnist"], None),
    ("one-hyphen", "fit trainer.max_epochs=3", ["did you mean --trainer.max_epochs=3"], None),
    ("option", f"{FIT} --data.batchsize 3", ["batchsize", "did you mean 'batch_size'"], None),
    ("option-of-net", f"{FIT} --model.net.rooting X", ["model.net: ", "rooting", "did you mean 'routing'"], None),
    ("no-value", "fit --trainer.max_epochs", ["--trainer.max_epochs: expected a value"], None),
    ("no-config", "fit --config", ["--config: expected a value"], None),
    ("print", "fit --print_config --trainer.max_epocs 3", ["did you mean 'trainer.max_epochs'"], None),
    ("print-how", "fit --print_config=commnts", ["commnts", "--print_config"], None),
    ("twice", f"{FIT} --trainer.max_epochs 3 --trainer.max_epochs x", ["trainer.max_epochs: got x"], None),
    # configs
    ("config-name", "fit --config mnits", ["no config 'mnits'", "did you mean 'mnist.yaml'"], None),
    ("config-folder", "fit --config folder", ["'folder', which is a folder"], lambda f: (f / "folder").mkdir()),
    ("config-syntax", "fit --config mine.yaml", ["mine.yaml, line 3: is not valid YAML"], mine("a: [1,\nmodel: {\n")),
    ("config-tab", "fit --config mine.yaml", ["mine.yaml, line 2", "spaces"], mine("trainer:\n\tdevices: 1\n")),
    ("config-empty", "fit --config mine.yaml", ["mine.yaml: is empty; expected"], mine("")),
    ("config-list", "fit --config mine.yaml", ["mine.yaml: is a list; expected"], mine("- a\n- b\n")),
    ("config-bytes", "fit --config mine.yaml", ["mine.yaml, line 2: is not text", "UTF-8"], mine(bytes(range(256)))),
    (
        "config-zero",
        "fit --config mine.yaml",
        ["mine.yaml, line 1: is not valid YAML", "x00"],
        mine(b"trainer: {}\x00"),
    ),
    ("config-code", "fit --config mine.yaml", ["mine.yaml, line 1"], mine("a: !!python/object/apply:os.getcwd []")),
    ("config-alias", "fit --config mine.yaml", ["mine.yaml, line 1", "alias *b"], mine("seed_everything: *b")),
    ("config-key", "fit --config mine.yaml", ["mine.yaml", "did you mean 'trainer'"], mine("trainner: {}")),
    (
        "config-null-among-callbacks",
        "fit --config mine.yaml",
        ["mine.yaml", "trainer.callbacks[0] is null", "expected a class"],
        mine("trainer: {callbacks: [null]}"),
    ),
    # a user who does not exist, also where `./` was before the name
    ("user-report", "report --ckpt_path ./~nobody.0", ["--ckpt_path=./~nobody.0", "no such user"], None),
    (
        "user-export",
        "export efficient_capsnet_mnist --output ~nobody.0/a.onnx",
        ["--output=~nobody.0", "no such user"],
        None,
    ),
    ("user-compare", "compare ./~nobody.0", ["~nobody.0", "no such user"], None),
    ("user-pictures", "predict efficient_capsnet_mnist --data.images ./~nobody.0", ["no such user"], None),
    (
        "config-twice",
        "fit --config mine.yaml",
        ["mine.yaml, line 2", "experiment stands in line 1"],
        mine("experiment: a\nexperiment: b\n"),
    ),
    ("apart", "fit --confg digits", ["no option 'confg'; did you mean 'config'?"], None),
    ("apart-import", "fit --improt mine", ["no option 'improt'; did you mean 'import'?"], None),
    ("apart-flag", "fit --print_confg", ["--print_confg", "did you mean 'print_config'?"], None),
    (
        "config-option",
        "fit --config digits --config mine.yaml",
        ["max_epoch", "did you mean 'trainer.max_epochs'"],
        mine("trainer: {max_epoch: 3}"),
    ),
    (
        "config-float",
        "fit --config mine.yaml",
        ["mine.yaml: trainer.max_epochs: got 1000.0, expected a whole number"],
        mine("trainer: {max_epochs: 1e3}"),
    ),
    (
        "config-none",
        "fit --config mine.yaml",
        ["trainer.max_epochs: got none, expected a whole number"],
        mine("trainer: {max_epochs: none}"),
    ),
    ("config-no-data", "fit --config mine.yaml", ["no data set is chosen", "--data CLASS"], mine("experiment: a")),
    (
        "config-of-part",
        "fit --config early_stopping --data.seed 1",
        ["no class is chosen for data", "--data CLASS"],
        None,
    ),
    ("config-written-out", "fit --config '{trainer: {max_epochs: 1'", ["--config, line 1: is not valid YAML"], None),
    # classes
    ("class", f"{FIT} --model.net.routing DynamicRoutin", ["'DynamicRoutin'", "did you mean 'DynamicRouting'"], None),
    (
        "slot",
        f"{FIT} --model.net.routing DenseDecoder",
        ["model.net.routing: DenseDecoder is not a class for this slot", "EMRouting"],
        None,
    ),
    ("data-class", "fit --data mnist", ["data: no class 'mnist'", "MNISTDataModule"], None),
    ("module", "fit --model.net.routing my.package.Mine", ["'my.package.Mine'", "No module named 'my'"], None),
    ("optimizer", "fit --model.optimizer Addam", ["no class 'Addam'", "did you mean 'Adam'"], None),
    (
        "schedule",
        "fit --model.lr_scheduler torch.optim.lr_scheduler.StepLR",
        ["model.lr_scheduler: StepLR lacks step_size"],
        None,
    ),
    ("callback", f"{FIT} --trainer.callbacks+=EarlyStoping", ["did you mean 'EarlyStopping'"], None),
    ("logger", f"{FIT} --trainer.logger GuardedLogger", ["no class 'GuardedLogger'"], None),
    (
        "wandb-mode",
        f"{FIT} --run_id two",
        ["WANDB_MODE='ofline': expected one of online, offline", "did you mean 'offline'"],
        lambda _: os.environ.update(WANDB_MODE="ofline"),
    ),
    ("callback-argument", f"{FIT} --trainer.callbacks+=EarlyStopping", ["lacks monitor"], None),
    # values of options
    ("int", f"{FIT} --data.batch_size many", ["data.batch_size: got many, expected a whole number"], None),
    ("literal", f"{FIT} --data.normalization z", ["got z, expected one of none, per_image, channel"], None),
    ("seed-negative", f"{FIT} --seed_everything -1", ["seed_everything=-1", "0 to 4294967295"], None),
    ("seed-text", f"{FIT} --seed_everything abc", ["seed_everything: got abc"], None),
    ("lr-text", f"{FIT} --model.optimizer.lr fast", ["model.optimizer.lr: got fast, expected a number"], None),
    ("lr-negative", f"{FIT} --model.optimizer.lr -1", ["model.optimizer", "-1.0", "--model.optimizer.lr"], None),
    ("lr-infinite", f"{FIT} --model.optimizer.lr .inf", ["lr=inf: expected a finite number"], None),
    (
        "warm-up",
        f"{FIT} --model.lr_scheduler WarmupCosine --model.lr_scheduler.warmup 1.5",
        ["WarmupCosine: warmup=1.5: expected a fraction"],
        None,
    ),
    ("one-cycle", f"{FIT} --model.lr_scheduler.start 5", ["OneCycle: start=5.0: expected a fraction"], None),
    (
        "floor",
        f"{FIT} --model.lr_scheduler ExponentialDecay --model.lr_scheduler.floor -1",
        ["ExponentialDecay: floor=-1.0"],
        None,
    ),
    ("weight", f"{FIT} --model.reconstruction_weight .nan", ["reconstruction_weight=nan: expected 0 or more"], None),
    ("margins", f"{FIT} --model.loss.m_plus 0.05", ["m_minus=0.1, m_plus=0.05: expected 0 <= m_minus"], None),
    (
        "shape-given",
        f"{FIT} --model.num_classes 5",
        ["model.num_classes: the data state it", "leave the option out"],
        None,
    ),
    # the trainer and the machine
    ("epochs-none", f"{FIT} --trainer.max_epochs 0", ["trainer.max_epochs=0: nothing would be done"], None),
    ("epochs-negative", f"{FIT} --trainer.max_epochs -5", ["max_epochs=-5", "max_epochs"], None),
    ("epochs-endless", f"{FIT} --trainer.max_epochs -1", ["max_epochs=-1 and max_steps=-1: set one"], None),
    ("epochs-crossed", f"{FIT} --trainer.min_epochs 3", ["trainer.min_epochs=3, trainer.max_epochs=1"], None),
    ("batches-none", f"{FIT} --trainer.limit_train_batches 0", ["trainer.limit_train_batches=0"], None),
    ("batches-part", f"{FIT} --trainer.limit_val_batches 1.5", ["trainer.limit_val_batches=1.5", "[0.0, 1.0]"], None),
    ("time", f"{FIT} --trainer.max_time 5h", ["5h", "DD:HH:MM:SS"], None),
    (
        "check-too-late",
        f"{FIT} --trainer.val_check_interval 100000 --trainer.limit_train_batches 1.0",
        ["`val_check_interval` (100000)", "number of the training batches (20)"],
        None,
    ),
    ("check-never", f"{FIT} --trainer.val_check_interval 0", ["trainer.val_check_interval=0"], None),
    (
        "check-epochs",
        f"{FIT} --trainer.check_val_every_n_epoch 0",
        ["check_val_every_n_epoch=0: expected at least 1"],
        None,
    ),
    (
        "clip-negative",
        f"{FIT} --trainer.gradient_clip_val -1",
        ["trainer.gradient_clip_val=-1: expected at least 0"],
        None,
    ),
    ("clip-nan", f"{FIT} --trainer.gradient_clip_val .nan", ["trainer.gradient_clip_val=nan"], None),
    ("clip-how", f"{FIT} --trainer.gradient_clip_algorithm nrm", ["gradient_clip_algorithm=nrm", "norm"], None),
    (
        "accumulate",
        f"{FIT} --trainer.accumulate_grad_batches 0",
        ["accumulate_grad_batches=0: expected at least 1"],
        None,
    ),
    ("profiler", f"{FIT} --trainer.profiler nope", ["trainer.profiler=nope", "simple"], None),
    ("accelerator", f"{FIT} --trainer.accelerator gppu", ["trainer.accelerator=gppu", "this machine offers"], None),
    ("tpu", f"{FIT} --trainer.accelerator tpu", ["trainer.accelerator=tpu", "this machine offers"], None),
    ("devices-none", f"{FIT} --trainer.devices 0", ["trainer.devices=0", "--trainer.devices auto"], None),
    (
        "devices-word",
        f"{FIT} --trainer.accelerator cpu --trainer.devices two",
        ["trainer.devices=two", "int > 0"],
        None,
    ),
    ("nodes-none", f"{FIT} --trainer.num_nodes 0", ["trainer.num_nodes=0", "at least 1"], None),
    (
        "nodes-alone",
        f"{FIT} --trainer.num_nodes 2 --trainer.accelerator cpu --trainer.strategy ddp",
        ["trainer.num_nodes=2: nothing has started", "srun or torchrun"],
        None,
    ),
    (
        "shares",
        f"{FIT} --trainer.accelerator cpu --trainer.devices 3 --trainer.strategy ddp",
        ["batch_size=64 is the batch of all 3 processes together: choose a multiple of 3"],
        None,
    ),
    ("strategy", f"{FIT} --trainer.strategy dpp", ["trainer.strategy=dpp", "this machine offers"], None),
    ("precision-word", f"{FIT} --trainer.precision fp16", ["trainer.precision: got fp16", "bf16-mixed"], None),
    (
        "precision-half",
        f"{FIT} --trainer.precision 16-true",
        ["trainer.precision=16-true: expected one of 32-true"],
        None,
    ),
    # callbacks
    ("monitor", f"{STOP}.monitor=val/acc", ["EarlyStopping: monitor=val/acc", "expected one of val/accuracy"], None),
    (
        "monitor-of-training",
        f"{STOP}.monitor=train/macro_f1 --model.metrics ClassMetrics",
        ["EarlyStopping: monitor=train/macro_f1", "val/macro_f1", "train/accuracy"],
        None,
    ),
    (
        "metric-names",
        f"{FIT} --model.metrics ClassMetrics --model.metrics.names [recall]",
        ["model.metrics.names: got [recall]", "some of accuracy, balanced_accuracy"],
        None,
    ),
    ("monitor-of-nothing", f"{STOP}.monitor=val/loss --data.val_size 0", ["no images are held out"], None),
    ("monitor-of-best", f"{KEEP}.monitor=val/acc", ["RunCheckpoint: monitor=val/acc", "val/accuracy"], None),
    ("mode", f"{KEEP}.mode=most", ["`mode` can be min, max but got most"], None),
    ("steps-between", f"{KEEP}.every_n_steps=0", ["every_n_steps=0: expected a number above 0"], None),
    ("folder-of-best", f"{KEEP}.dirpath=file", ["file: ", "--trainer.callbacks.dirpath"], file("file")),
    (
        "compiler",
        f"{FIT} --trainer.callbacks+=CompileNetwork --trainer.callbacks.backend=fast",
        ["CompileNetwork: backend='fast': expected one of", "inductor"],
        None,
    ),
    # networks
    ("kernel", f"{FIT} --model.net.encoder.kernel_size 30", ["8x8 are too small", "kernels 30"], None),
    ("channels", f"{FIT} --model.net.encoder.channels 0", ["channels=0: expected at least 1"], None),
    ("dim", f"{FIT} --model.net.dim 0", ["dim_out=0: expected at least 1"], None),
    ("passes", f"{FIT} --model.net.routing.iterations 0", ["iterations=0: expected at least 1"], None),
    ("vote-weights", f"{FIT} --model.net.routing.vote_weights 3", ["vote_weights=3", "divides the 8 children"], None),
    ("matrix", f"{EM}.pose matrix --model.net.dim 12", ["pose=matrix", "12 dimensions", "square"], None),
    ("variance", f"{EM}.min_variance .nan", ["min_variance=nan: expected a number above 0"], None),
    (
        "hidden",
        "fit --config digits --model.net.decoder.hidden [0]",
        ["DenseDecoder: hidden=[0]: expected widths"],
        None,
    ),
    ("network-too-deep", "fit --config digits --config model/matrix_capsules", ["2x2", "larger images"], None),
    ("logits", f"{FIT} --model.loss CrossEntropyLoss --model.loss.of logits", ["use MarginLoss"], None),
    (
        "single-task",
        f"{FIT} --config multimnist --data.fake true --data.val_size 40 --model ClassificationTask",
        ["num_labels=2", "MultiLabelTask --model.num_labels 2"],
        None,
    ),
    (
        "many-labels",
        f"{FIT} --model MultiLabelTask --model.num_labels 20",
        ["num_labels=20: expected at least 2 and fewer than the 10"],
        None,
    ),
    # runs
    ("id-slash", f"{FIT} --run_id a/b", ["run_id='a/b': expected the name of one folder"], None),
    ("id-up", f"{FIT} --run_id ..", ["run_id='..'"], None),
    ("id-empty", f"{FIT} --run_id ''", ["run_id=''"], None),
    ("id-long", f"{FIT} --run_id {'a' * 300}", ["1 to 128 characters"], None),
    ("experiment-up", f"{FIT} --experiment ../../x", ["experiment='../../x'"], None),
    ("id-taken", f"{FIT} --run_id one", [f"{RUN} exists", f"--resume {RUN}"], None),
    ("runs-file", f"{FIT} --runs file", ["file/digits/", "cannot be written", "--runs FOLDER"], file("file")),
    ("resume-nothing", f"{FIT} --resume nowhere", ["no run 'nowhere': expected the folder of a run"], None),
    ("resume-file", f"{FIT} --resume {LAST}", [f"no run '{LAST}'", "the newest is"], None),
    ("resume-both", f"{FIT} --resume one --ckpt_path {LAST}", ["give one of the two"], None),
    ("resume-other-id", f"{FIT} --resume one --run_id two", ["run_id=two, resume=one: are two runs"], None),
    ("resume-other-net", f"{FIT} --resume one --model.net.dim 3", ["another network: net.routing.weight"], None),
    # checkpoints
    ("test-nothing", "test --config digits", ["test needs a trained network: --ckpt_path"], None),
    ("test-no-run", "test --runs elsewhere", ["ckpt_path=best: no run with a checkpoint below elsewhere"], None),
    ("test-no-last", "test last --runs elsewhere", ["ckpt_path=last: no run with a checkpoint"], None),
    ("test-no-file", "test --ckpt_path none.ckpt", ["none.ckpt: no such checkpoint; expected a file like"], None),
    (
        "test-folder",
        "test --ckpt_path here",
        ["no run 'here': expected the folder of a run"],
        lambda f: (f / "here").mkdir(),
    ),
    ("test-word", f"test {LAST} {LAST}", [f"unrecognized arguments: {LAST}"], None),
    ("test-init", f"{TEST} --init_from one", ["init_from=one: is for fit"], None),
    ("test-config", f"test --ckpt_path {RUN}/config.yaml", ["cannot be read as a checkpoint"], None),
    ("test-torn", TEST, [f"{LAST}: cannot be read as a checkpoint", "previous.ckpt"], last(half)),
    ("test-bit", TEST, [f"{LAST}: cannot be read as a checkpoint", "damaged"], last(one_bit)),
    ("test-empty", TEST, [f"{LAST}: cannot be read as a checkpoint"], last(lambda path: path.write_bytes(b""))),
    ("test-code", TEST, ["holds more than values"], last(lambda path: torch.save({"x": np.random.Generator}, path))),
    ("test-no-state", TEST, ["holds no network"], last(lambda path: torch.save({"weights": 1}, path))),
    ("test-foreign", TEST, ["lacks pytorch-lightning_version"], state(**{"pytorch-lightning_version": None})),
    ("test-safetensors", "test --config digits --ckpt_path w.safetensors", ["w.safetensors"], file("w.safetensors")),
    ("test-other-net", f"{TEST} --model.net.dim 8", [f"{LAST}: ", "another network", "net.routing.weight"], None),
    (
        "test-other-classes",
        f"{TEST} --data ImageFolderDataModule --data.root photos --data.channels 1 --data.image_size [8,8]",
        [f"{LAST}: was trained on the 10 classes 0, 1, 2", "these data have 2: cat, dog"],
        photos(),
    ),
    (
        "test-other-task",
        f"{TEST} --model MultiLabelTask --config '{{model: {{init_args: {{net: CapsNet}}}}}}'",
        ["num_labels=1 of each image", "--model ClassificationTask"],
        None,
    ),
    ("test-config-torn", TEST, ["config.yaml, line 1"], lambda f: (f / RUN / "config.yaml").write_text("a: [")),
    ("fit-weights-alone", f"{FIT} --ckpt_path {LAST}", [f"{LAST}: lacks loops"], state(loops=None)),
    (
        "fit-other-optimizer",
        f"{FIT} --ckpt_path {LAST} --run_id two --trainer.max_epochs 2 --model.optimizer torch.optim.SGD",
        ["model.optimizer=SGD", "trained with Adam", "leave --model.optimizer out"],
        None,
    ),
    ("predict-nothing", "predict --config digits --data.images x", ["predict needs a trained network"], None),
    ("predict-output", f"{PREDICT} x --output t.doc", ["output=t.doc: expected a name that ends in .csv"], None),
    ("predict-poses", f"{PREDICT} x --poses p.csv", ["embeddings=p.csv: expected a name that ends in .npz"], None),
    ("predict-there", f"{PREDICT} x --output t.csv", ["t.csv exists", "--overwrite"], file("t.csv")),
    ("predict-nowhere", f"{PREDICT} x --output no/t.csv", ["no: no such folder"], None),
    (
        "predict-metrics",
        f"{PREDICT} x --output {RUN}/metrics.csv --overwrite",
        [f"{RUN}/metrics.csv: is a file of the run"],
        None,
    ),
    ("predict-import", f"{PREDICT} x --import nowhere.at_all", ["--import nowhere.at_all: cannot be imported"], None),
    ("init-nothing", f"{FIT} --init_from none.ckpt", ["none.ckpt: no such checkpoint"], None),
    ("init-network", f"{FIT} --init_from efficient_capsnet_mnis", ["did you mean 'efficient_capsnet_mnist'"], None),
    ("init-torn", f"{FIT} --init_from {LAST}", [f"{LAST}: cannot be read as a checkpoint"], last(half)),
    ("init-other", f"{FIT} --init_from efficient_capsnet_mnist", ["none of its", "fits this network"], None),
    ("init-both", f"{FIT} --init_from one --ckpt_path {LAST}", ["give one of the two"], None),
    ("predict-no-file", f"{PREDICT} nowhere", ["nowhere: no such file or folder"], None),
    ("predict-empty", f"{PREDICT} folder", ["folder: no images"], lambda f: (f / "folder").mkdir()),
    ("predict-text", f"{PREDICT} text.txt", ["text.txt: cannot be read as an image"], file("text.txt", b"text")),
    (
        "predict-bomb",
        f"{PREDICT} b.png",
        ["b.png: has more than 64,000,000 pixels", "--data.max_pixels"],
        file("b.png", BOMB),
    ),
    # data
    (
        "nowhere",
        "fit --config mnist --data.root nowhere --data.download false",
        ["mnist", "nowhere", "digits.yaml"],
        None,
    ),
    ("norb", "fit --config smallnorb --data.download false", ["smallnorb were not found", "--data.root"], None),
    ("mnist-cut", MNIST, ["cut short or damaged", "remove them"], raw(numbers(np.zeros((40, 28, 28)))[:5000])),
    ("mnist-size", MNIST, ["(1, 20, 20); expected (1, 28, 28)"], raw(numbers(np.zeros((40, 20, 20))))),
    ("mnist-labels", MNIST, ["40 images and 30 labels"], raw(labels=numbers(np.arange(30) % 10))),
    ("mnist-eleven", MNIST, ["labels reach 11", "0 to 9"], raw(labels=numbers(np.arange(40) % 12))),
    ("cifar-torn", CIFAR, ["cifar10 were not found", "corrupted"], archive),
    (
        "prepared-torn",
        MNIST,
        ["prepared/mnist/train: the prepared set is damaged", "remove this folder"],
        stored(harm=lambda f: half(f / "images.npy")),
    ),
    ("prepared-part", MNIST, ["the prepared set is damaged"], stored(harm=lambda f: (f / "labels.npy").unlink())),
    ("prepared-none", MNIST, ["0 images and 0 labels"], stored(np.zeros((0, 1, 28, 28), np.uint8), np.arange(0))),
    (
        "prepared-float",
        MNIST,
        ["images.npy holds (40, 1, 28, 28) float64", "uint8"],
        stored(np.zeros((40, 1, 28, 28), np.float64)),
    ),
    (
        "tree-class",
        MNIST,
        ["data/mnist/train: expected the class folders 0, 1", "differing: ten"],
        photos("data/mnist/train", "0 1 2 3 4 5 6 7 8 9 ten", 1, "L", 28),
    ),
    (
        "tree-size",
        MNIST,
        ["20x20 pixels; expected 28x28"],
        photos("data/mnist/train", "0 1 2 3 4 5 6 7 8 9", 1, "L", 20),
    ),
    ("arrays-no-path", ARRAYS.removesuffix(" --data.path"), ["no file of arrays is given: set --data.path"], None),
    ("arrays-nowhere", f"{ARRAYS} a.npz", ["a.npz: no such file or folder; expected an .npz, .mat or HDF5 file"], None),
    ("arrays-pipe", f"{ARRAYS} pipe", ["pipe: is not a file (pipe)"], lambda f: os.mkfifo(f / "pipe")),
    ("arrays-torn", f"{ARRAYS} a.npz", ["a.npz: cannot be read", "make the file again"], arrays(half)),
    ("arrays-bit", f"{ARRAYS} a.npz", ["a.npz: cannot be read (Bad CRC-32"], arrays(one_bit)),
    (
        "arrays-names",
        f"{ARRAYS} folder",
        ["expected train_images and train_labels", "there are 'pics'", "--data.images_name"],
        lambda f: ((f / "folder").mkdir(), np.save(f / "folder/pics.npy", np.zeros((9, 8, 8)))),
    ),
    (
        "arrays-lengths",
        f"{ARRAYS} a.npz",
        ["images has 40 images and labels 30 labels; expected as many"],
        arrays(labels=np.arange(30) % 2),
    ),
    ("arrays-pickles", f"{ARRAYS} a.npz", ["pickles"], arrays(labels=np.array(["a", None] * 20, dtype=object))),
    ("arrays-one-class", f"{ARRAYS} a.npz", ["only the label 0 to train on"], arrays(labels=np.zeros(40, np.int64))),
    (
        "arrays-range",
        f"{ARRAYS} a.npz",
        ["images: has values that are NaN or infinite; expected numbers; replace them"],
        arrays(images=np.full((40, 28, 28), np.nan)),
    ),
    (
        "arrays-text",
        f"{ARRAYS} a.npz",
        ["holds <U1; expected images as numbers"],
        arrays(images=np.full((40, 28, 28), "a")),
    ),
    ("photos-none", PHOTOS, ["photos: no such folder; set --data.root"], None),
    (
        "photos-empty",
        PHOTOS,
        ["photos: no class folders; expected photos/<class>/<image>"],
        lambda f: (f / "photos").mkdir(),
    ),
    ("photos-one-class", PHOTOS, ["only the class cat; expected two"], photos(classes="cat")),
    (
        "photos-empty-class",
        PHOTOS,
        ["photos/eel: the class folder is empty"],
        lambda f: (photos()(f), (f / "photos/eel").mkdir()),
    ),
    (
        "photos-zero",
        PHOTOS,
        ["photos/cat/a.png: cannot be read as an image", "replace or remove"],
        among("cat/a.png", b""),
    ),
    (
        "photos-pipe",
        PHOTOS,
        ["photos/cat/z.png: is a pipe"],
        lambda f: (photos()(f), os.mkfifo(f / "photos/cat/z.png")),
    ),
    (
        "photos-program",
        f"{PREDICT} b.png",
        ["b.png: cannot be read as an image (it is none of PNG"],
        file("b.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\nshowpage\n"),
    ),
    ("predict-name", f"{PREDICT} {'a' * 300}", ["File name too long"], None),
    ("predict-empty-word", f"{PREDICT} ''", ["images=''", "expected an image file"], None),
    (
        "photos-link",
        PHOTOS,
        ["photos/cat/a.png: cannot be read"],
        lambda f: (photos()(f), (f / "photos/cat/a.png").symlink_to("gone")),
    ),
    (
        "photos-sizes",
        f"{PHOTOS} --data.image_size null",
        ["20x20 pixels; expected 32x32", "--data.image_size"],
        lambda f: (photos()(f), Image.new("L", (20, 20)).save(f / "photos/cat/9.png")),
    ),
    ("photos-no-test", PHOTOS, ["photos/test: no such folder; expected it beside"], photos("photos/train")),
    (
        "photos-test-class",
        PHOTOS,
        ["photos/test: expected the class folders", "differing: dog"],
        lambda f: (photos("photos/train")(f), photos("photos/test", "cat")(f)),
    ),
    (
        "photos-few",
        PHOTOS,
        ["too few images in a class (cat has 1, dog has 1)", "expected at least 3", "add images"],
        photos(count=1),
    ),
    ("photos-test-size", f"{PHOTOS} --data.test_size 1000", ["test_size=1000", "expected 2 to 22"], photos()),
    ("batch-none", f"{FIT} --data.batch_size 0", ["batch_size=0: expected at least 1"], None),
    ("batch-large", f"{FIT} --data.batch_size 10000", ["batch_size=10000", "at most 1293"], None),
    ("held-out-more", f"{FIT} --data.val_size 1.5", ["val_size=1.5: expected 0, a fraction"], None),
    ("held-out-nan", f"{FIT} --data.val_size .nan", ["val_size=nan"], None),
    ("held-out-all", f"{FIT} --data.val_size 100000", ["val_size=100000", "expected 10 to 1427"], None),
    ("held-out-class", f"{FIT} --data.val_size 3", ["val_size=3", "each of 10 classes on both sides"], None),
    ("data-seed", f"{FIT} --data.seed -1", ["seed=-1: expected 0 to"], None),
    ("shift", f"{FIT} --data.augmentation Shift --data.augmentation.pixels 8", ["pixels=8", "8x8 out of sight"], None),
    ("patch", f"{FIT} --data.augmentation RandomPatch --data.augmentation.size 9", ["size=9: larger than"], None),
]


NIGHT = [
    "command",
    "no-command",
    "prepare-nothing",
    "lr-negative",
    "one-cycle",
    "floor",
    "warm-up",
    "weight",
    "margins",
    "epochs-endless",
    "time",
    "check-too-late",
    "tpu",
    "nodes-alone",
    "monitor-of-best",
    "shares",
    "mode",
    "monitor-of-nothing",
    "folder-of-best",
    "steps-between",
    "compiler",
    "channels",
    "kernel",
    "dim",
    "vote-weights",
    "matrix",
    "variance",
    "hidden",
    "logits",
    "many-labels",
    "test-other-net",
    "test-other-task",
    "predict-empty",
    "predict-bomb",
    "predict-no-file",
    "norb",
    "mnist-size",
    "mnist-labels",
    "cifar-torn",
    "mnist-eleven",
    "prepared-none",
    "prepared-float",
    "tree-class",
    "prepared-part",
    "tree-size",
    "arrays-lengths",
    "arrays-torn",
    "arrays-one-class",
    "arrays-text",
    "photos-none",
    "photos-empty",
    "photos-one-class",
    "photos-zero",
    "photos-link",
    "photos-test-class",
    "photos-no-test",
    "photos-few",
    "batch-none",
    "photos-test-size",
    "held-out-more",
    "batch-large",
    "held-out-nan",
    "data-seed",
    "held-out-class",
    "shift",
    "patch",
]
"""Cases that make a network or data before they are refused; another of their kind is tried by day."""


@pytest.fixture(scope="module")
def trained_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small run that was trained for two steps."""
    folder = tmp_path_factory.mktemp("once")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "disabled")
        patch.chdir(folder)
        main([*shlex.split(FIT), "--run_id", "one"])
    return folder / "runs"


def snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    """Sizes and times of all files, and all folders, but for the lock of whoever came last, which is no one's loss."""
    found = {}
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        if path.name != ".held":
            found[str(path.relative_to(folder))] = (0, 0) if path.is_dir() else (status.st_size, status.st_mtime_ns)
    return found


@pytest.mark.parametrize(
    ("words", "expected", "make"),
    [pytest.param(*case, id=name, marks=[pytest.mark.nightly] if name in NIGHT else []) for name, *case in CASES],
)
def test_wrong_input_is_answered_by_one_line_and_harms_nothing(
    words: str,
    expected: list[str],
    make: Make | None,
    run_main: Callable[..., Path],
    trained_once: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if RUN in words or "one" in words.split():
        shutil.copytree(trained_once, tmp_path / "runs")
    if make is not None:
        make(tmp_path)
    before = snapshot(tmp_path)
    environment = dict(os.environ)
    with pytest.raises(SystemExit) as stopped:
        run_main(*shlex.split(words))
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error
    _, mark, message = error.partition("capsule_lightning: error: ")
    assert message.count("\n") == 1
    assert message.endswith("\n")
    assert error.startswith(mark) or f"\n{mark}" in error
    for part in expected:
        assert part in message
    assert len(message) < 800
    assert snapshot(tmp_path) == before
    assert {k: v for k, v in os.environ.items() if k.startswith("CAPSULE")} == {
        k: v for k, v in environment.items() if k.startswith("CAPSULE")
    }


def test_the_table_is_long_and_its_names_are_unlike() -> None:
    names = {case[0] for case in CASES}
    assert len(names) == len(CASES) >= 40
    assert set(NIGHT) < names


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("words", ["gpu", "cuda", "gpu --trainer.devices 4"])
def test_a_gpu_that_is_not_there(
    words: str, run_main: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        run_main(*shlex.split(f"{FIT} --trainer.accelerator {words}"))
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert f"trainer.accelerator={words.split()[0]}" in error
    assert "this machine offers cpu" in error
    assert not any(tmp_path.iterdir())


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is closed to root")
@pytest.mark.parametrize("name", ["mine.yaml", "runs"])
def test_what_may_not_be_read_or_written(
    name: str, run_main: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine("{}")(tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / name).chmod(0o500 if name == "runs" else 0)
    with pytest.raises(SystemExit) as stopped:
        run_main(*shlex.split(f"{FIT} {'' if name == 'runs' else '--config mine.yaml'}"))
    assert stopped.value.code == 2
    assert f"{name}" in capsys.readouterr().err


@pytest.mark.parametrize("mode", nightly_but(["I;16"], ["LA", "RGBA", "P", "I;16"]))
def test_a_picture_of_another_mode_is_no_wrong_input(mode: str, run_main: Callable[..., Path], tmp_path: Path) -> None:
    photos()(tmp_path)
    Image.new(mode, (32, 32)).save(tmp_path / "photos" / "cat" / "a.png")
    run_main(*shlex.split(f"{PHOTOS} --config trainer/debug --data.batch_size 4"))


def test_debug_shows_the_traceback(run_main: Callable[..., Path]) -> None:
    with pytest.raises(InputError, match="no config"):
        run_main("fit", "--config", "nothing", "--debug")


def test_a_metric_of_a_class_from_elsewhere_may_be_monitored(
    run_main: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere.py").write_text(
        "import lightning as L\n"
        "class Extra(L.Callback):\n"
        "    def on_validation_epoch_end(self, trainer, pl_module):\n"
        "        pl_module.log('val/extra', 1.0)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    words = f"{STOP.split('--trainer.callbacks')[0]} --trainer.callbacks+=elsewhere.Extra"
    run_main(*shlex.split(words), "--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.monitor=val/extra")
    sys.modules.pop("elsewhere")
