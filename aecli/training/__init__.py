"""Training: from a request (architecture, data, budget) to a weights file. Nothing here prints or asks."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from aecli.anomalies import (
    ERROR_OF_MEAN,
    LITTLE_LEARNED,
    PHOTO_BATCH,
    PHOTO_PATCH,
    error_quantiles,
    quantiles_of,
    share_of_mean_error,
)
from aecli.coding.tables import fill_tables, fit_tables
from aecli.device import Compute
from aecli.errors import UsageError
from aecli.models import ARCHITECTURES, FeatureAutoencoder, build, config_of
from aecli.models.codec import Codec
from aecli.models.denoiser import Denoiser
from aecli.models.dense import CODEBOOK, Deep, Sparse
from aecli.patches import in_batches
from aecli.progress import duration
from aecli.storage import refuse_url
from aecli.training import arrays, features
from aecli.training.data import (
    CLASS_NAMES,
    NAMES,
    Decoded,
    FeatureData,
    FolderSource,
    as_unit,
    central_crops,
    dataset_features,
    folder_features,
    load_dataset,
    read_rgb,
    split_pictures,
)
from aecli.training.distributed import ALONE, Processes
from aecli.training.drawings import Drawings
from aecli.training.loop import ANNEALING, Budget, Progress, Task, Trainer
from aecli.training.noise import Noise, add_gaussian, degrade
from aecli.training.photos import GREY_SHARE, REDUCED_SHARE, CodecTask, DenoiserTask
from aecli.training.recycling import recycle
from aecli.weights import card_of, find_weights, load_weights, save_weights

VALID_CROP = 256
PCA_PATCHES = 64  # that a codec starts from
TABLE_PATCHES = 32  # that its tables are fitted to
UNIT_PATCHES = 32  # that show which units of a denoiser are dormant
QUANTILE_PATCHES = 1000
SAMPLES = 10
MEAN_OF = 4096  # training pictures
DENOISER_NOISE = "white 0-60 of 255, camera noise, and what files hold besides"  # in the model card


@dataclass(frozen=True)
class Recipe:
    """What is used where the command line is silent."""

    batch_size: int
    lr: float
    data: str = "mnist"
    steps: int | None = None  # not epochs: a folder of a hundred pictures takes as many to learn
    minutes: float | None = None
    patch_size: int = 32
    clip: float = 1.0
    largest: float = math.inf  # see Muon
    annealing: float = ANNEALING


RECIPES = {
    # On MNIST and two cores with AVX2 and nothing newer, conv and vae take under six minutes, the others under two.
    "dense": Recipe(batch_size=128, lr=5e-3, steps=9000),
    # Larger batches than the others': the iterations of the optimiser take as long as the gradients of 128 pictures.
    "deep": Recipe(batch_size=512, lr=5e-3, steps=500),
    "sparse": Recipe(batch_size=128, lr=5e-3, steps=2500),
    "conv": Recipe(batch_size=128, lr=5e-3, steps=1400),
    "vae": Recipe(batch_size=128, lr=5e-3, steps=1400),
    # Clipping at 0.1 matters little to orthogonalised updates, and protects AdamW's share of them.
    # Steps of the deep layers as small as those of a 3×3 convolution of 64 channels: larger ones are noise, and units die of it.
    "denoiser": Recipe(batch_size=16, lr=1e-3, data="", minutes=60, patch_size=128, clip=0.1, largest=9 * 64, annealing=0.98),
    "codec": Recipe(batch_size=8, lr=1e-3, data="", minutes=60, patch_size=256),
}
QUICK_BATCH = 128  # of deep in runs of less than a minute, which learn more from many steps than from large ones
FROM_SCRATCH = {"denoiser": {"slope": 0.1, "local_mean": True}}
"""Configurations of photograph models where there is no --init, which has its own."""


@dataclass(frozen=True)
class Request:
    """What the user asked for; None means the recipe's value."""

    arch: str
    output: Path
    compute: Compute
    data: str | None = None
    data_root: Path | None = None
    download: bool = False
    valid: str | None = None
    patch_size: int | None = None
    resize: int | None = None  # whole pictures of a folder, reduced to this side, instead of patches
    latent_dim: int | None = None
    sparsity: str | None = None
    noise: Noise | None = None
    epochs: float | None = None
    steps: int | None = None
    minutes: float | None = None
    batch_size: int | None = None  # of each process
    lr: float | None = None
    seed: int = 0
    init: str | None = None
    resume: bool = False
    restart: bool = False  # even if an unfinished run's checkpoint is there
    resumable: bool = True  # a checkpoint is kept beside the output until that is written
    keep_stopped: bool = False  # the weights are written even if the run is stopped
    overwrite: bool = False
    command: str = ""
    data_name: str | None = None  # what the model card calls the data
    tell: Callable[[str], None] = lambda _: None  # is given sentences: how long it takes, which pictures are left out

    def __post_init__(self) -> None:
        for option, path in (("--data", self.data), ("--valid", self.valid), ("--output", self.output)):
            refuse_url(path or "", option)
            if path == "":
                raise UsageError(f"{option} is empty: check the variable that it came from")

    @property
    def recipe(self) -> Recipe:
        return RECIPES[self.arch]

    @property
    def source(self) -> str:
        """The data set, array or folder."""
        return self.recipe.data if self.data is None else self.data

    @property
    def checkpoint(self) -> Path | None:
        """Where the run's state is kept until the output is written: beside it, as there it can be written."""
        return self.output.with_suffix(".checkpoint.pt") if self.resumable else None


@dataclass(frozen=True)
class Result:
    """scores: on test pictures. samples: rows of pictures for people to look at, (n, C, H, W) in 0–1, by label."""

    finished: bool
    output: Path
    steps: int
    scores: Mapping[str, float] = field(default_factory=dict)
    samples: Mapping[str, Tensor] = field(default_factory=dict)


def train(
    request: Request,
    on_progress: Callable[[Progress], None],
    should_stop: Callable[[], bool],
    processes: Processes = ALONE,
) -> Result:
    """Train, write the weights file, and measure it.

    When `should_stop` says so before the budget is spent (`finished` is False), only the checkpoint is written, and the weights
    where the request wants them all the same; when these are, it is removed.
    Of several processes, all of which call this with the same request, the first one writes and measures; the others'
    results hold no scores.

    Raises:
        UsageError: options that do not go together. AecliError: data or checkpoint cannot be used.
    """
    with processes.together():
        _check(request)
        _fetch_once(request, processes)
    with processes.together():
        session = _photo_session(request) if request.arch in ("denoiser", "codec") else _feature_session(request)
        trainer = _trainer(request, session, processes)
    if request.resume:
        with processes.together():
            trainer.load_checkpoint()
    _tell_duration(request, trainer)
    finished = trainer.run(on_progress, should_stop)
    kept = finished or (request.keep_stopped and trainer.step > 0)
    if not kept or not processes.leads:
        return Result(finished, request.output, trainer.step)
    model = trainer.ema
    request.tell(f"step {trainer.step:,} was the last: {session.ending}")
    session.finish(model)
    with torch.inference_mode():
        scores, samples, quantiles = session.measure(model)
    card = card_of(
        model,
        request.arch,
        task=session.card_task,
        training_data=request.data_name or session.data_name,
        steps=trainer.step,
        noise=DENOISER_NOISE if request.arch == "denoiser" else str(request.noise or ""),
        colour_mode=session.colour_mode,
        scores={name: round(value, 5) for name, value in scores.items()},
        error_quantiles=quantiles,
        resize=request.resize or 0,
        command=request.command,
    )
    save_weights(request.output, model, card, half=isinstance(model, Denoiser | Codec), overwrite=request.overwrite)
    trainer.remove_checkpoint()
    share = share_of_mean_error(card)
    if share > LITTLE_LEARNED:
        request.tell(
            f"warning: {request.output} has learned little: on held-out pictures its error is {share:.0%} of that of their mean "
            "picture; train longer (--steps, --minutes)"
        )
    return Result(finished, request.output, trainer.step, scores, samples)


@dataclass
class _Session:
    """A task with what its weights file will say of it. held_out: a digest of the pictures that are."""

    task: Task
    data_name: str
    held_out: str
    card_task: str
    colour_mode: str
    finish: Callable[[Any], None]  # what a model keeps beside its weights
    measure: Callable[[Any], tuple[dict[str, float], dict[str, Tensor], dict[str, float]]]
    ending: str = "measuring held-out pictures"  # what `finish` and `measure` do


def _check(request: Request) -> None:
    if request.arch not in ARCHITECTURES:
        raise UsageError(f"--arch {request.arch} is not known: give one of {', '.join(ARCHITECTURES)}")
    if request.output.suffix != ".safetensors":
        raise UsageError(f"--output {request.output}: weights files must end in .safetensors")
    if request.output.exists() and not request.overwrite:
        raise UsageError(f"{request.output} exists: pass --overwrite or another --output")
    folder = next(parent for parent in request.output.absolute().parents if parent.exists())
    if not os.access(folder, os.W_OK) or not folder.is_dir():  # better said now than after hours of training
        raise UsageError(f"{request.output} cannot be written: pass another --output")
    _check_checkpoint(request)
    photo = request.arch in ("denoiser", "codec")
    if photo and request.noise:
        raise UsageError(f"--noise is for the small architectures; {request.arch} has noise of its own: leave it out")
    if photo and request.resize is not None:
        raise UsageError(f"--resize is for the small architectures: leave it out with {request.arch}")
    if photo and request.latent_dim:
        raise UsageError(f"--latent-dim is for the small architectures: leave it out with {request.arch}")
    if request.sparsity and request.arch != "sparse":
        raise UsageError("--sparsity goes with --arch sparse only")
    if photo and (request.source in NAMES or not request.source):
        raise UsageError(f"--arch {request.arch} learns from photographs: pass --data FOLDER")


def _check_checkpoint(request: Request) -> None:
    checkpoint = request.checkpoint
    if request.resume and request.restart:
        raise UsageError("--resume goes on and --restart begins anew: give one of them")
    if checkpoint is None or not checkpoint.exists() or request.resume:
        return
    if checkpoint.is_dir():
        raise UsageError(f"{checkpoint}, where the run's state is kept, is a folder: pass another --output")
    if not request.restart:
        raise UsageError(f"{checkpoint} is of a run that has not ended: pass --resume to go on with it, or --restart to begin anew")


def check_source(request: Request) -> None:
    """Raises UsageError for options that are of no use for such data."""
    data = request.source
    is_set, is_array = data in NAMES, Path(data).suffix in arrays.SUFFIXES
    for_folders = {"--valid": request.valid, "--patch-size": request.patch_size, "--resize": request.resize}
    for_sets = {"--data-root": request.data_root, "--download": request.download or None}
    for options, fits, kind in ((for_folders, not (is_set or is_array), "a folder of pictures"), (for_sets, is_set, "a data set")):
        useless = [option for option, value in options.items() if value is not None]
        if useless and not fits:
            raise UsageError(f"{useless[0]} is of use with {kind}, and {data} is none: leave it out")
    if request.patch_size and request.resize:
        raise UsageError("--patch-size takes parts of pictures, --resize whole ones: give one of them")


def _fetch_once(request: Request, processes: Processes) -> None:
    """One process of each machine fetches the data, before the others look for it."""
    if processes.count > 1 and processes.local_rank == 0 and request.download and request.data in NAMES:
        load_dataset(request.data, request.data_root, download=True)


def _trainer(request: Request, session: _Session, processes: Processes) -> Trainer:
    recipe = request.recipe
    batch_size = request.batch_size or recipe.batch_size
    return Trainer(
        session.task,
        budget=_budget(request, -(-len(session.task.source) // (processes.count * max(1, batch_size)))),
        batch_size=batch_size,
        lr=recipe.lr if request.lr is None else request.lr,
        clip=recipe.clip,
        largest=recipe.largest,
        annealing=recipe.annealing,
        seed=request.seed,
        compute=request.compute,
        checkpoint=request.checkpoint,
        options=_options(request, session),
        processes=processes,
    )


def _options(request: Request, session: _Session) -> dict[str, str]:
    """What must be the same when a run goes on, besides what the trainer itself is given; how long it takes need not."""
    config = config_of(session.task.model)
    init = hashlib.sha256(find_weights(request.init).read_bytes()).hexdigest() if request.init else ""
    return {
        "--arch": request.arch,
        "--data": f"{session.data_name} (of those held out: {session.held_out[:8]})",
        "--patch-size": str(request.patch_size or request.recipe.patch_size),
        "--noise": str(request.noise or ""),
        "--latent-dim": str(config.get("latent_dim", "")),
        "--sparsity": str(config.get("sparsity", "")),
        "--init": f"{Path(request.init).stem} ({init[:8]})" if request.init else "",
    }


def _tell_duration(request: Request, trainer: Trainer) -> None:
    seconds = trainer.expected_seconds()
    if seconds is not None:
        request.tell(f"{request.output}: training takes about {duration(seconds)}")


def _budget(request: Request, steps_per_epoch: int) -> Budget:
    given = [v for v in (request.epochs, request.steps, request.minutes) if v is not None]
    if len(given) > 1:
        raise UsageError("give one of --epochs, --steps and --minutes")
    if request.epochs is not None and not 0 < request.epochs < math.inf:
        raise UsageError("--epochs, --steps and --minutes must be positive")
    if request.epochs is not None:
        return Budget(steps=max(1, round(request.epochs * steps_per_epoch)))
    budget = request if given else request.recipe
    return Budget(steps=budget.steps, minutes=budget.minutes)


def _model(request: Request, config: Mapping[str, Any]) -> Any:
    """A fresh model, or the weights to start from."""
    if request.init is None:
        torch.manual_seed(request.seed)
        return build(request.arch, config)
    start = load_weights(request.init)
    if start.card.arch != request.arch:
        raise UsageError(f"--init {request.init} is a {start.card.arch}, not a {request.arch}: pass --arch {start.card.arch}")
    wrong = [f"{k} {start.card.config[k]} instead of {v}" for k, v in config.items() if start.card.config[k] != v]
    if wrong:
        raise UsageError(f"--init {request.init} has {', '.join(wrong)}: pass data and options that fit it")
    return start.model.train().requires_grad_(True)


def _photo_session(request: Request) -> _Session:
    assert request.data is not None
    check_source(request)
    patch_size = request.patch_size or request.recipe.patch_size
    if request.arch == "codec" and patch_size % Codec.stride:
        raise UsageError(f"--patch-size {patch_size} does not fit the codec: give a multiple of {Codec.stride}")
    decoded = Decoded()
    least = (patch_size, Codec.stride if request.arch == "codec" else 1)
    train_paths, valid_paths = split_pictures(request.data, request.valid, least, request.tell, decoded)
    valid = central_crops(valid_paths, VALID_CROP)
    model = _model(request, {} if request.init else FROM_SCRATCH.get(request.arch, {}))
    shares = {"grey_share": GREY_SHARE, "reduced_share": REDUCED_SHARE} if request.arch == "denoiser" else {}
    source = FolderSource(train_paths, patch_size, request.seed, decoded=decoded, **shares)
    if isinstance(model, Codec) and request.init is None:
        model.start_with_pca(source.batch(0, PCA_PATCHES))
    if isinstance(model, Denoiser) and request.init is not None and not request.resume:  # a checkpoint replaces all weights
        _recycle_units(model, source.batch(0, UNIT_PATCHES), request.seed)
    if isinstance(model, Denoiser):
        task: Task = DenoiserTask(model, source, valid, Drawings(patch_size, request.seed))
    else:
        task = CodecTask(model, source, valid)

    def finish(model: Any) -> None:
        if isinstance(model, Codec):
            fill_tables(model)
            fit_tables(model, source.batch(0, TABLE_PATCHES), request.compute)

    def measure(model: Any) -> tuple[dict[str, float], dict[str, Tensor], dict[str, float]]:
        with request.compute.autocast():
            scores, samples = task.validate(model), _photo_samples(model, valid, request.compute)
        return scores, samples, _photo_quantiles(model, valid_paths, request.compute)

    card_task = "denoise" if request.arch == "denoiser" else "compress"
    data_name = f"{len(source.paths)} pictures of {Path(request.data).name}"
    session = _Session(task, data_name, _digest(valid), card_task, "rgb", finish, measure)
    return replace(session, ending=f"fitting probability tables, {session.ending}") if isinstance(model, Codec) else session


def _digest(pictures: Iterable[Tensor]) -> str:
    digest = hashlib.sha256()
    for picture in pictures:
        digest.update(picture.contiguous().numpy().tobytes())
    return digest.hexdigest()


def _recycle_units(model: Denoiser, patches: Tensor, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    batch = degrade(patches, generator)
    recycle(model, lambda: model(batch.noisy, batch.sigma), generator)


def _photo_quantiles(model: Denoiser | Codec, paths: Sequence[Path], compute: Compute) -> dict[str, float]:
    """Of a codec's squared error on patches at its highest quality; of a denoiser's at sigma 25, blind."""
    side = PHOTO_PATCH.height
    if all(min(read_rgb(path).shape[:2]) < side for path in paths):
        return {}
    patches = FolderSource(paths, side, 0).batch(0, QUANTILE_PATCHES)
    if isinstance(model, Codec):
        return error_quantiles(model, patches, compute)
    noisy = add_gaussian(patches, 25 / 255, torch.Generator().manual_seed(0), as_file=True)
    restored = in_batches(lambda x: model(x, model.blind_level(x)), noisy, compute, size=PHOTO_BATCH)
    return quantiles_of((restored - patches).square().flatten(1).mean(dim=1))


def _photo_samples(model: Denoiser | Codec, valid: list[Tensor], compute: Compute) -> dict[str, Tensor]:
    crops = [v[:, :192, :192] for v in valid if min(v.shape[1:]) >= 192][:5]
    if not crops:
        return {}
    clean = torch.stack(crops).to(compute.device)
    if isinstance(model, Denoiser):
        generator = torch.Generator().manual_seed(0)
        noisy = add_gaussian(clean.cpu(), 25 / 255, generator, as_file=True).to(compute.device)
        return {"clean": clean, "noisy, sigma 25": noisy, "restored": model(noisy, model.blind_level(noisy)).float()}
    level = torch.full((len(clean),), 2.0, device=compute.device)
    return {"original": clean, "decoded": model(clean, level).x_hat}


def feature_data(request: Request) -> FeatureData:
    """The data set, array or folder that a request names, for the feature architectures. Raises UsageError or AecliError."""
    check_source(request)
    data = request.source
    if data in NAMES:
        return dataset_features(load_dataset(data, request.data_root, download=request.download), request.seed)
    if Path(data).suffix in arrays.SUFFIXES:
        return arrays.array_features(Path(data), request.seed)
    if request.resize is not None:
        return arrays.resized_features(data, request.valid, request.resize, request.seed, request.tell)
    patch_size = request.patch_size or request.recipe.patch_size
    return folder_features(data, request.valid, patch_size, request.seed, request.tell)


def collection(request: Request, patches: int) -> arrays.Collection:
    """The pictures that a request names, to look at: the test part of a data set or an array; otherwise all of an array, all
    of a folder's pictures where the request reduces them, or else about so many patches of them.

    Raises UsageError or AecliError.
    """
    check_source(request)
    data = request.source
    if data in NAMES:
        found = load_dataset(data, request.data_root, download=request.download)
        return arrays.Collection(f"{found.name}, test pictures", found.test.images, found.test.labels, CLASS_NAMES.get(data, ()))
    if Path(data).suffix in arrays.SUFFIXES:
        whole, test = arrays.read_collection(Path(data))
        return test or whole
    if request.resize is not None:
        return arrays.resized_folder(data, request.resize, request.tell)
    patch_size = request.patch_size or request.recipe.patch_size
    return arrays.folder_patches(data, patch_size, patches, request.seed, request.tell)


def _feature_session(request: Request) -> _Session:
    data = feature_data(request)
    channels, height, width = data.shape
    config: dict[str, Any] = {"channels": channels, "height": height, "width": width}
    if request.latent_dim is not None:
        config["latent_dim"] = request.latent_dim
    if request.sparsity is not None:
        config["sparsity"] = request.sparsity
    model: FeatureAutoencoder = _model(request, config)
    noise = request.noise
    if noise and isinstance(model, Sparse):
        model.config = replace(model.config, descents=0)  # they would fit the code to the noise

    def finish(model: FeatureAutoencoder) -> None:
        if isinstance(model, Deep) and model.searches:
            rows = torch.linspace(0, len(data.train) - 1, CODEBOOK).long()
            model.fill_codebook(as_unit(data.train[rows]).to(request.compute.device))

    def measure(model: FeatureAutoencoder) -> tuple[dict[str, float], dict[str, Tensor], dict[str, float]]:
        model = model.to("cpu")
        clean, noisy = data.test[:SAMPLES], features.corrupt(data.test, noise)[:SAMPLES]
        samples = {"original": clean} | ({"noisy": noisy} if noise else {})
        samples["restored" if noise else "reconstruction"] = model(noisy).float()
        quantiles = error_quantiles(model, features.corrupt(data.valid, noise), Compute(torch.device("cpu"), bf16=False))
        scores = {**features.evaluate(model, data.test, noise), ERROR_OF_MEAN: _error_of_mean(data)}
        return scores, samples, quantiles

    card_task = "denoise" if noise else "features"
    task = features.FeatureTask(model, data.source, data.valid, noise)
    return _Session(task, data.name, _digest(data.valid), card_task, "grey" if channels == 1 else "rgb", finish, measure)


def _error_of_mean(data: FeatureData) -> float:
    """Squared error of the mean training picture, as that of a model is measured."""
    rows = torch.linspace(0, len(data.train) - 1, min(len(data.train), MEAN_OF)).long()
    mean = as_unit(data.train[rows]).mean(dim=0)
    return (data.test - mean).square().flatten(1).sum(dim=1).mean().item()


__all__ = ["RECIPES", "Progress", "Recipe", "Request", "Result", "collection", "feature_data", "train"]
