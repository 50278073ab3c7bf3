"""The models by name: what each reads, and its hyperparameters. Pure Python, so that `--help` answers at once.

A hyperparameter is declared once: in `COMMON` when every model has it, in `SHARED` when several have it, and at its
model otherwise. Adding a model takes an entry of `MODELS` and a trunk in `video_trunks.py` or `frame_trunks.py`.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from vcls_model.commands import UsageError, unknown_choice
from vcls_model.models.hyperparameters import Hyperparameter
from vcls_model.models.recipes import FRAME_RECIPE, PLAIN, RESIDUAL_RECIPE, VIDEO_RECIPE, WIDE_RECIPE, Recipe
from vcls_model.records.schema import FRAMES, TEXT, VECTOR, Modality

VIDEO_LEVEL = "video"
FRAME_LEVEL = "frame"
# What preprocess names the vectors that it pools from the frames modality `rgb`: `rgb_mean`, `rgb_std`, `rgb_top5`.
POOLS = ("mean", "std", "top5")


# Every model has these.
COMMON: dict[str, Hyperparameter] = {
    "fusion": Hyperparameter(
        "early",
        "early: the features of all modalities are joined and pass through one trunk; late: one trunk per modality, "
        "joined before the classifier; score: one whole model per modality, whose logits are averaged",
        choices=("early", "late", "score"),
    ),
    "input_norm": Hyperparameter(
        "data",
        "data: the features as preprocess normalised them; l2: undo that inside the model and scale the raw vector of "
        "each modality (of each frame) to length 1, what preprocess --normalise=l2 gives",
        choices=("data", "l2"),
    ),
    # A mixture of two unit vectors (mixup) is shorter than either, which marks it as a mixture: "unit" keeps that.
    "modality_norm": Hyperparameter(
        "none",
        "none; l2: scale the vector of each modality (of each frame) to a root mean square of 1; unit: the same by a "
        "constant, for vectors that have length 1 already (--input_norm=l2, or preprocess --normalise=l2)",
        choices=("none", "l2", "unit"),
    ),
    "input_dropout": Hyperparameter(
        0.0, "fraction of the input values that training drops", below=1, shapes_layers=False
    ),
    "text_width": Hyperparameter(64, "values of the vector that a model learns for each text"),
    "text_dropout": Hyperparameter(
        0.5, "fraction of the words and n-grams of a text that training drops", below=1, shapes_layers=False
    ),
    "linear_skip": Hyperparameter(
        False, "add a linear classifier of the input (averaged over frames) to the logits", of_head=True
    ),
    "label_projection": Hyperparameter(
        0.0,
        "strength of the supervised projection of the joined features (0 disables it, 0.75 works well; needs "
        "--fusion=early)",
        below=10,
    ),
    "members": Hyperparameter(
        1,
        "independent copies of trunk and classifier in one model, trained side by side on the same batches; their "
        "probabilities are averaged",
    ),
    "head": Hyperparameter(
        "none",
        "none; label_graph: propagate the scores over the graph of label co-occurrence",
        choices=("none", "label_graph"),
        of_head=True,
    ),
    "label_text": Hyperparameter(
        0.0,
        "strength of a part of the classifier whose weights for a class follow from its name, topics and description, "
        "so that rare classes learn from similar ones (0 disables it, 0.3 works well)",
        of_head=True,
    ),
    "classifier_rate": Hyperparameter(
        0.0,
        "learning rate of a linear classifier's own weights relative to the others', where they start at zero (0: the "
        "same rate, and random weights to start with)",
        of_head=True,
    ),
    "neighbours": Hyperparameter(
        0,
        "number of most similar training videos that vote on each prediction (0 disables the vote)",
        may_be_empty=True,
        shapes_layers=False,
    ),
    "neighbour_weight": Hyperparameter(
        0.35, "weight of the neighbours' vote in each prediction", below=1, shapes_layers=False
    ),
}

# Several models have these; a model gives its own default.
SHARED: dict[str, Hyperparameter] = {
    "hidden_units": Hyperparameter((1024,), "units of each hidden layer before the classifier", may_be_empty=True),
    "dropout": Hyperparameter(0.5, "fraction of the hidden values that training drops", below=1, shapes_layers=False),
    "mixtures": Hyperparameter(1, "experts per class in the classifier; 1 is a linear classifier", of_head=True),
    "units": Hyperparameter(2048, "units of the wide layer"),
    "frame_units": Hyperparameter((), "units of each dense layer that every frame passes through", may_be_empty=True),
    "cell": Hyperparameter("gru", "type of the recurrent layers", choices=("gru", "lstm")),
    "recurrent_units": Hyperparameter((1024,), "units of each recurrent layer"),
    "clusters": Hyperparameter(256, "number of clusters that frames are assigned to"),
    "heads": Hyperparameter(4, "attention heads"),
}


@dataclasses.dataclass(frozen=True)
class ModelInfo:
    """What is known of a model without building it.

    Attributes:
        level: `"video"`: its trunk reads one vector per video; `"frame"`: it reads sequences of frames.
        summary: one line for a help text.
        hyperparameters: all of them, by name.
        recipe: how it is trained best; `PLAIN` for the baseline, whose defaults are those of training.
        check: returns what is wrong with a combination of values, or "".
    """

    level: str
    summary: str
    hyperparameters: Mapping[str, Hyperparameter]
    recipe: Recipe = PLAIN
    check: Callable[[Mapping[str, Any]], str] = lambda values: ""

    @property
    def defaults(self) -> dict[str, Any]:
        """Every hyperparameter's default."""
        return {name: declared.default for name, declared in self.hyperparameters.items()}

    @property
    def own(self) -> dict[str, Hyperparameter]:
        """The hyperparameters that not every model has."""
        return {name: declared for name, declared in self.hyperparameters.items() if name not in COMMON}


def _model(
    level: str,
    summary: str,
    recipe: Recipe = PLAIN,
    check: Callable[[Mapping[str, Any]], str] | None = None,
    **hyperparameters: Any,
) -> ModelInfo:
    """An entry of `MODELS`; of a common or shared hyperparameter it needs the default alone."""
    declared = dict(COMMON)
    for name, value in hyperparameters.items():
        if not isinstance(value, Hyperparameter):
            value = dataclasses.replace(COMMON.get(name) or SHARED[name], default=value)
        declared[name] = value
    return ModelInfo(level, summary, declared, recipe, *([check] if check else []))


def _check_transformer(values: Mapping[str, Any]) -> str:
    units, heads = values["units"], values["heads"]
    if not units % heads and not units % 2:
        return ""
    return f"transformer needs units that are even and a multiple of heads, got {units} units and {heads} heads"


MODELS: dict[str, ModelInfo] = {
    # Video-level: one vector per modality.
    "logistic": _model(VIDEO_LEVEL, "one linear classifier per class", VIDEO_RECIPE),
    "dense": _model(
        VIDEO_LEVEL, "hidden layers of ReLU units, then one sigmoid per class", hidden_units=(1024,), dropout=0.0
    ),
    "moe": _model(VIDEO_LEVEL, "mixture of linear experts per class", VIDEO_RECIPE, mixtures=2),
    "residual": _model(
        VIDEO_LEVEL,
        "wide layer with batch normalisation and dropout, residual blocks, context gating",
        RESIDUAL_RECIPE,
        units=2048,
        blocks=Hyperparameter(1, "residual blocks", may_be_empty=True),
        gating=Hyperparameter(True, "end with context gating"),
        dropout=0.5,
        mixtures=1,
    ),
    "wide": _model(
        VIDEO_LEVEL,
        "one wide layer beside a linear classifier",
        WIDE_RECIPE,
        units=2048,
        dropout=0.5,
        mixtures=1,
        input_dropout=0.3,
        linear_skip=True,
    ),
    "chain": _model(
        VIDEO_LEVEL,
        "deep combine chain: classifiers that see the predictions of earlier ones",
        VIDEO_RECIPE,
        stages=Hyperparameter(3, "classifiers in the chain", of_head=True),
        link_units=Hyperparameter(200, "units that summarise the predictions of a stage", of_head=True),
        mixtures=2,
        support_weight=Hyperparameter(
            0.2, "weight of the earlier stages' mean in the output", below=1, shapes_layers=False
        ),
    ),
    # Frame-level: a sequence of vectors per modality.
    "average": _model(
        FRAME_LEVEL,
        "mean over frames, then hidden layers",
        FRAME_RECIPE,
        frame_units=(),
        hidden_units=(1024,),
        dropout=0.5,
        mixtures=1,
    ),
    "feature_attention": _model(
        FRAME_LEVEL,
        "dense layers on frames, then a weighted mean per feature",
        FRAME_RECIPE.but(frame_units=(512, 512), epochs=7),
        frame_units=(1024, 1024, 1024),
        hidden_units=(),
        dropout=0.5,
        mixtures=1,
    ),
    "cnn_rnn": _model(
        FRAME_LEVEL,
        "convolutions over time, then GRU or LSTM",
        FRAME_RECIPE,
        filters=Hyperparameter((512, 512), "filters of each convolution"),
        kernel_size=Hyperparameter(5, "frames that a filter sees"),
        cell="gru",
        recurrent_units=(1024,),
        hidden_units=(1024,),
        dropout=0.5,
        mixtures=1,
    ),
    "multiscale_cnn": _model(
        FRAME_LEVEL,
        "convolutions of several lengths and reaches, pooled at every scale",
        FRAME_RECIPE.but(
            kernel_sizes=(1, 3), blocks=2, linear_skip=True, dropout=0.6, input_dropout=0.1, mixup=1.0, epochs=14
        ),
        filters=Hyperparameter(256, "filters of each convolution"),
        kernel_sizes=Hyperparameter((1, 3, 5), "frames that the filters of each convolution in a block see"),
        blocks=Hyperparameter(4, "blocks; each reaches twice as far as the one before"),
        hidden_units=(1024,),
        dropout=0.5,
        mixtures=1,
    ),
    "attention_rnn": _model(
        FRAME_LEVEL,
        "GRU or LSTM in both directions, then attention over frames",
        FRAME_RECIPE.but(recurrent_units=(256,)),
        cell="gru",
        recurrent_units=(512,),
        attention_units=Hyperparameter(256, "units of the attention's hidden projection"),
        heads=4,
        hidden_units=(1024,),
        dropout=0.5,
        mixtures=1,
    ),
    "dbof": _model(
        FRAME_LEVEL,
        "deep bag of frames",
        FRAME_RECIPE.but(label_projection=0.0),
        fusion="late",
        clusters=8192,
        hidden_units=(1024,),
        dropout=0.0,
        mixtures=2,
    ),
    "netvlad": _model(
        FRAME_LEVEL,
        "gated NetVLAD",
        FRAME_RECIPE.but(label_projection=0.0),
        fusion="late",
        clusters=256,
        hidden_units=(1024,),
        dropout=0.0,
        mixtures=2,
        gate_scores=Hyperparameter(True, "gate the scores by one another (context gating)", of_head=True),
    ),
    "nextvlad": _model(
        FRAME_LEVEL,
        "NeXtVLAD with squeeze-and-excite gating",
        FRAME_RECIPE.but(fusion="early", clusters=32, hidden_units=(1024,)),
        fusion="late",
        clusters=128,
        groups=Hyperparameter(8, "groups that the expanded frame is cut into"),
        expansion=Hyperparameter(2, "how many times wider the expanded frame is"),
        hidden_units=(2048,),
        reduction=Hyperparameter(8, "how many times narrower the gate's bottleneck is"),
        dropout=0.5,
        mixtures=1,
    ),
    "transformer": _model(
        FRAME_LEVEL,
        "transformer encoder, then attention over frames",
        FRAME_RECIPE,
        _check_transformer,
        units=dataclasses.replace(SHARED["units"], default=512, meaning="width of the encoder"),
        blocks=Hyperparameter(6, "encoder blocks", may_be_empty=True),
        heads=8,
        inner_units=Hyperparameter(2048, "units of the layer inside each block"),
        dropout=0.1,
        mixtures=1,
    ),
}
MODEL_NAMES: tuple[str, ...] = tuple(sorted(MODELS))


def model_info(name: str) -> ModelInfo:
    """What is known of the model called `name`.

    Raises:
        UsageError: there is none; the message names the nearest.
    """
    if name not in MODELS:
        raise unknown_choice("model", name, MODEL_NAMES)
    return MODELS[name]


def default_hyperparameters(name: str) -> dict[str, Any]:
    """The hyperparameters of the model called `name` with their defaults.

    Raises:
        UsageError: there is no such model.
    """
    return model_info(name).defaults


def resolve_hyperparameters(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The defaults of the model called `name` overridden by `given`, checked and of the right types.

    Values may be text as typed on a command line (`"1024,512"`, `"true"`) or lists as read from JSON.

    Raises:
        UsageError: unknown model or hyperparameter (names the nearest), or a value out of range.
    """
    info = model_info(name)
    resolved = info.defaults
    for key, value in given.items():
        if key not in info.hyperparameters:
            raise unknown_choice(f"hyperparameter of {name}", key, info.hyperparameters)
        resolved[key] = info.hyperparameters[key].parse(key, value)
    wrong = info.check(resolved)
    if wrong:
        raise UsageError(wrong)
    if resolved["label_projection"] and resolved["fusion"] != "early":
        raise UsageError("label_projection projects the joined features of all modalities: it needs fusion=early")
    return resolved


def select_modalities(name: str, modalities: Sequence[Modality]) -> tuple[Modality, ...]:
    """Those of a dataset's transformed modalities that the model called `name` reads.

    A frame-level model reads every frames modality, and every vector that was not pooled from one of them. A
    video-level model reads every vector, and every frames modality (by the mean of its frames) that was not pooled.
    All models read all texts.

    Raises:
        UsageError: unknown model, or a frame-level model and a dataset without frames.
    """
    frames = {modality.name for modality in modalities if modality.kind == FRAMES}
    pooled_from = {f"{name}_{pool}": name for name in frames for pool in POOLS}
    present = {modality.name for modality in modalities if modality.kind == VECTOR}
    if model_info(name).level == VIDEO_LEVEL:
        unread = {source for vector, source in pooled_from.items() if vector in present}
    elif frames:
        unread = set(pooled_from) & present
    else:
        texts = {modality.name for modality in modalities if modality.kind == TEXT}
        held = ", ".join(sorted(present | texts)) or "nothing"
        others = ", ".join(other for other in MODEL_NAMES if MODELS[other].level == VIDEO_LEVEL)
        raise UsageError(
            f"model {name!r} reads sequences of frames, but the dataset holds one vector per video only "
            f"({held}): preprocess frame-level records, or choose one of {others}"
        )
    return tuple(modality for modality in modalities if modality.name not in unread)
