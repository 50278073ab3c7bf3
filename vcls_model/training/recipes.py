"""Fits a model's recipe to the data and the hardware, and chooses the model of `--model=auto`. Pure Python.

All rules are here. They change entries of the recipe alone: what the command line gives stays as it is.
"""

import dataclasses
import math
from collections.abc import Collection, Mapping
from typing import Any

from vcls_model.models import model_info
from vcls_model.models.recipes import Recipe
from vcls_model.records.raw_values import normalisation_of
from vcls_model.records.schema import FRAMES, TEXT
from vcls_model.records.transformed import TransformedData
from vcls_model.records.vocabulary import FEWEST_NAMED
from vcls_model.training.config import TrainConfig

AUTO = "auto"
AUTO_RULE = (
    "Of frames: attention_rnn where no video has more than 60, else nextvlad; average below 200 training videos. "
    "Otherwise residual; wide below 10,000 training videos, logistic below 200"
)

# Fewer videos than this say nothing of directions, and the nearest of them are not near.
FEWEST_VIDEOS = 200
# Mean training videos per class below which a regression on the labels has nothing to learn from.
_FEWEST_POSITIVES = 2.0
# The projection takes D² numbers and D³ steps: 4,096 values take half a gigabyte and a minute. It reads 500,000 videos
# at most, so that beyond a million it would rest on a minority.
_WIDEST_PROJECTION = 4_096
_MOST_PROJECTED = 1_000_000
# Members make up for few videos; with as many as this, twice the time buys more elsewhere.
_MOST_FOR_MEMBERS = 1_000_000
# The memory holds 50,000 videos: a tenth of these. Fewer would vote for what happens to come first.
_MOST_REMEMBERED = 500_000
_VIDEOS_PER_NEIGHBOUR = 100
_FEWEST_NEIGHBOURS = 5
# A batch is at most this fraction of the training videos, so that an epoch has steps enough to learn from,
_BATCHES_PER_EPOCH = 16
# but no smaller than this: batch normalisation needs several videos.
_SMALLEST_BATCH = 8
# Activations of frames grow with batch size times frames: 64 videos of 300.
_FRAMES_PER_BATCH = 19_200
# The most times that the epochs of a recipe are repeated for few videos, and the fewest epochs for many.
_MOST_REPEATED = 5
_FEWEST_EPOCHS = 2
# The warm-up is at most this part of the run.
_LONGEST_WARM_UP = 15
_LONG_VIDEO = 60
_MANY_VIDEOS = 10_000
# A smaller batch than the recipe's lowers the learning rate by this much at most: few videos make few steps, too.
_LOWEST_SCALE = 0.5


@dataclasses.dataclass(frozen=True)
class DataFacts:
    """What the rules look at.

    Attributes:
        videos: training videos.
        positives: training videos per class, on average over the classes that have any.
        width: values of all modalities that the model reads, texts left out, together.
        frames: frames of the longest video, 0 where there are none.
        modalities: how many a record may have.
        normalisation: how preprocess normalised: `zscore`, `minmax`, `l2`, `none`, `pca`; None is unknown.
        named: whether classes have names.
    """

    videos: int
    positives: float
    width: int
    frames: int
    normalisation: str | None
    modalities: int = 2
    named: bool = True

    @classmethod
    def of(cls, data: TransformedData, names: set[str]) -> "DataFacts":
        """Of a dataset, of which a model reads the modalities called `names`."""
        counts = [count for count in data.class_counts() or () if count]
        per_video = data.info.get("statistics", {}).get("frames_per_video", [])
        read = [modality for modality in data.modalities if modality.name in names]
        has_frames = any(modality.kind == FRAMES for modality in read)
        return cls(
            videos=data.records.get("train", 0),
            positives=sum(counts) / len(counts) if counts else math.inf,
            width=sum(modality.width for modality in read if modality.kind != TEXT),
            frames=max((number for number, count in enumerate(per_video) if count), default=1) if has_frames else 0,
            normalisation=normalisation_of(data),
            named=sum(not info.unnamed for info in data.classes()) >= FEWEST_NAMED,
            modalities=len(data.schema.modalities),
        )


@dataclasses.dataclass(frozen=True)
class FittedRecipe:
    """A recipe as it is used on some data.

    Attributes:
        values: by name of the flag; those that the command line gives are left out.
        notes: why each value that differs from the recipe does.
    """

    values: Mapping[str, Any]
    notes: tuple[str, ...] = ()


def _text(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def choose_model(data: TransformedData) -> str:
    """The architecture of `--model=auto`, see `AUTO_RULE`."""
    facts = DataFacts.of(data, {modality.name for modality in data.modalities})
    few = facts.videos < FEWEST_VIDEOS
    if not facts.frames:
        return "logistic" if few else "wide" if facts.videos < _MANY_VIDEOS else "residual"
    if few:
        return "average"
    return "attention_rnn" if facts.frames <= _LONG_VIDEO else "nextvlad"


def without_conflicts(hyperparameters: Mapping[str, Any], recipe: Collection[str]) -> dict[str, Any]:
    """Hyperparameters without those of a recipe that others, which the command line gives, exclude.

    Args:
        hyperparameters: all of a model's.
        recipe: names of those that are the recipe's.
    """
    values = dict(hyperparameters)
    if values["fusion"] != "early" and "label_projection" in recipe:
        values["label_projection"] = 0.0
    return values


def fit_recipe(recipe: Recipe, config: TrainConfig, facts: DataFacts, *, bfloat16: bool) -> FittedRecipe:
    """The entries of a recipe that the command line leaves open, as the data and the hardware want them.

    Args:
        recipe: of the model of `config`.
        config: the run, with the values of the recipe for `config.recipe`, the entries that are open.
        facts: of the data.
        bfloat16: whether the hardware computes in bfloat16.
    """
    current = _flags_of(config)
    fitted = _Fitting({name: recipe.values[name] for name in config.recipe}, current)
    _fit_input(fitted, facts)
    _fit_knowledge(fitted, facts)
    _fit_batch(fitted, facts, recipe)
    _fit_length(fitted, facts, recipe)
    if facts.modalities < 2:
        fitted.set("modality_dropout", 0.0, "the records have one modality")
    if not bfloat16:
        fitted.set("precision", "float32", "this hardware does not compute in bfloat16")
    return FittedRecipe(fitted.open, tuple(fitted.notes))


@dataclasses.dataclass
class _Fitting:
    """Values on their way from a recipe to a run: `open` are the recipe's, `current` all of the run's."""

    open: dict[str, Any]
    current: dict[str, Any]
    notes: list[str] = dataclasses.field(default_factory=list)

    def set(self, name: str, value: Any, reason: str) -> None:
        """Changes an open entry, and says why."""
        if name in self.open and self.open[name] != value:
            self.notes.append(f"--{name}={_text(value)} rather than {_text(self.open[name])}: {reason}")
            self.open[name] = self.current[name] = value


def _fit_input(fitted: _Fitting, facts: DataFacts) -> None:
    if facts.normalisation in (None, "pca"):
        reason = (
            "PCA has whitened the data, which cannot be undone; the recipe is better on other normalisations"
            if facts.normalisation == "pca"
            else "the dataset does not say how it is normalised"
        )
        fitted.set("input_norm", "data", reason)
    if fitted.current["input_norm"] == "data" and facts.normalisation != "l2":
        fitted.set("modality_norm", "l2", "without --input_norm=l2 vectors have other lengths than 1")


def _fit_knowledge(fitted: _Fitting, facts: DataFacts) -> None:
    videos = f"{facts.videos:,} training videos"
    if fitted.current["fusion"] != "early":
        fitted.set("label_projection", 0.0, "it joins the modalities, which --fusion keeps apart")
    if not facts.width:
        fitted.set("label_projection", 0.0, "there are only texts, whose vectors are yet to be learned")
        fitted.set("neighbours", 0, "there are only texts, whose vectors are yet to be learned")
    if facts.videos < FEWEST_VIDEOS or facts.videos > _MOST_PROJECTED:
        fitted.set("label_projection", 0.0, videos)
    if facts.width > _WIDEST_PROJECTION:
        fitted.set("label_projection", 0.0, f"{facts.width:,} values are too many for it")
    if facts.positives < _FEWEST_POSITIVES:
        fitted.set("label_projection", 0.0, f"{facts.positives:.1f} training videos per class")
    if facts.videos > _MOST_FOR_MEMBERS:
        fitted.set("members", 1, videos)
    if not facts.named:
        fitted.set("label_text", 0.0, "the dataset does not name its classes")
    if facts.videos < FEWEST_VIDEOS or facts.videos > _MOST_REMEMBERED:
        fitted.set("neighbours", 0, videos)
    elif fitted.open.get("neighbours"):
        most = max(_FEWEST_NEIGHBOURS, facts.videos // _VIDEOS_PER_NEIGHBOUR)
        fitted.set("neighbours", min(fitted.open["neighbours"], most), videos)


def _fit_batch(fitted: _Fitting, facts: DataFacts, recipe: Recipe) -> None:
    if "batch_size" in fitted.open:
        size = fitted.open["batch_size"]
        frames = min(facts.frames, fitted.current["max_frames"])
        while size > _SMALLEST_BATCH and size * _BATCHES_PER_EPOCH > facts.videos:
            size //= 2
        fitted.set("batch_size", max(min(size, facts.videos), 1), f"{facts.videos:,} training videos")
        while size > _SMALLEST_BATCH and size * frames > _FRAMES_PER_BATCH:
            size //= 2
        fitted.set("batch_size", max(min(size, facts.videos), 1), f"{frames} frames per video")
    if "learning_rate" in fitted.open:
        # The square-root rule of Adam: Malladi et al. 2022, "On the SDEs and Scaling Rules for Adaptive Gradient
        # Algorithms".
        scale = math.sqrt(fitted.current["batch_size"] / recipe.values.get("batch_size", fitted.current["batch_size"]))
        rate = float(f"{fitted.open['learning_rate'] * max(scale, _LOWEST_SCALE):.3g}")
        fitted.set(
            "learning_rate", rate, f"it goes with the square root of --batch_size={fitted.current['batch_size']}"
        )


def _fit_length(fitted: _Fitting, facts: DataFacts, recipe: Recipe) -> None:
    if "epochs" in fitted.open and recipe.videos and facts.videos:
        epochs = fitted.open["epochs"]
        wanted = round(epochs * math.sqrt(recipe.videos / facts.videos))
        wanted = min(max(wanted, min(epochs, _FEWEST_EPOCHS)), _MOST_REPEATED * epochs)
        fitted.set("epochs", wanted, f"{facts.videos:,} training videos")
    if "warmup_examples" in fitted.open:
        longest = facts.videos * fitted.current["epochs"] // _LONGEST_WARM_UP
        fitted.set("warmup_examples", min(fitted.open["warmup_examples"], longest), "a short run")


def apply_recipe(config: TrainConfig, fitted: FittedRecipe) -> TrainConfig:
    """The run with the values of a fitted recipe."""
    values = dict(fitted.values)
    if "final_rate" in values:
        values["floor"] = values.pop("final_rate")
    hyperparameters = {name: values.pop(name, value) for name, value in config.hyperparameters.items()}
    options = config.options
    read = _taken(options.read, values)
    schedule = _taken(options.schedule, values)
    options = dataclasses.replace(_taken(options, values), read=read, schedule=schedule)
    config = dataclasses.replace(_taken(config, values), hyperparameters=hyperparameters, options=options)
    return dataclasses.replace(config, recipe=tuple(fitted.values), recipe_notes=fitted.notes)


def _taken(target: Any, values: dict[str, Any]) -> Any:
    """A dataclass with those of the values that are fields of it, which are removed from `values`."""
    fields = {field.name for field in dataclasses.fields(target)} & set(values)
    return dataclasses.replace(target, **{name: values.pop(name) for name in sorted(fields)})


def _flags_of(config: TrainConfig) -> dict[str, Any]:
    """All values that recipes may hold, by name of the flag."""
    options = config.options
    return {
        **vars(options.schedule),
        "final_rate": options.schedule.floor,
        **vars(options.read),
        **vars(options),
        "precision": config.precision,
        "class_prior": config.class_prior,
        **config.hyperparameters,
    }


def keep_pretrained(config: TrainConfig, info: Mapping[str, Any]) -> TrainConfig:
    """A run that starts from a pretrained model, with that model's own values wherever the recipe's would shape layers.

    Args:
        config: with the recipe's own values.
        info: the `info.json` of the pretrained model.
    """
    declared = model_info(config.model).hyperparameters
    trained = info["model"]
    if trained["name"] != config.model:
        return config  # which is refused later
    values = dict(config.hyperparameters)
    taken = {
        name
        for name in config.recipe
        if name in declared and declared[name].shapes_layers and not (config.new_head and declared[name].of_head)
    }
    for name in taken:
        # Models from before a hyperparameter existed have its default.
        values[name] = declared[name].parse(name, trained["hyperparameters"].get(name, declared[name].default))
    overwritten = {"class_prior"} & set(config.recipe) if not config.new_head else set()
    return dataclasses.replace(
        config,
        hyperparameters=values,
        class_prior=config.class_prior and not overwritten,
        recipe=tuple(name for name in config.recipe if name not in taken | overwritten),
    )


def recipe_text(config: TrainConfig) -> str:
    """The recipe's part of a run as flags, then why values differ from the recipe, one per line."""
    flags = " ".join(f"--{name}={_text(value)}" for name, value in recipe_values(config).items())
    return "\n".join(f"  {line}" for line in (flags, *config.recipe_notes))


def recipe_values(config: TrainConfig) -> dict[str, Any]:
    """The recipe's part of a run, by name of the flag."""
    current = _flags_of(config)
    return {name: current[name] for name in config.recipe}


def misfits(config: TrainConfig, data: TransformedData) -> list[str]:
    """A sentence for each hyperparameter that does not suit how the data are normalised."""
    chosen, normalisation = config.hyperparameters, normalisation_of(data)
    if chosen["modality_norm"] == "unit" and chosen["input_norm"] == "data" and normalisation not in ("l2", None):
        return [
            "--modality_norm=unit is meant for vectors of length 1, which this dataset "
            f"({normalisation}) does not hold: --input_norm=l2 makes them"
        ]
    return []


def fit_config(config: TrainConfig, data: TransformedData, names: set[str], *, bfloat16: bool) -> TrainConfig:
    """The run with its model's recipe fitted to the data; the run itself where no entry is open.

    Args:
        config: with the recipe's own values.
        data: the dataset.
        names: the modalities that the model reads.
        bfloat16: whether the hardware computes in bfloat16.
    """
    if not config.recipe:
        return config
    recipe = model_info(config.model).recipe
    return apply_recipe(config, fit_recipe(recipe, config, DataFacts.of(data, names), bfloat16=bfloat16))
