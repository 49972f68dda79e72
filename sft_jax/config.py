"""Sections of an experiment: frozen dataclasses that check themselves.

Every default of the project is defined here or in `sft_jax.data.sets`. A value of the wrong type,
an unknown key or a value out of range raises `pydantic.ValidationError`, which lists all problems
at once; `sft_jax.config_io` turns it into a readable message.
"""

from __future__ import annotations

from dataclasses import field, replace
from typing import Annotated, Any, Literal

import pydantic
from pydantic import Field
from pydantic.dataclasses import dataclass

from sft_jax.config_types import (
    ClassWeights,
    Fraction,
    KernelName,
    NonNegative,
    RateGroups,
    Seed,
    named,
)
from sft_jax.data import registry
from sft_jax.data.sets.base import DatasetEntry
from sft_jax.data.sets.watch.entry import WatchData
from sft_jax.data_config import MAY_CHANGE, STRICT, Count, CountOrNone, Positive, folder_field
from sft_jax.modules import MODELS, TOKENIZERS
from sft_jax.objective import check_objective
from sft_jax.ops.pool import POOLS, attention_problem, saliency_problem
from sft_jax.structs import DEFAULT_K, MatmulPrecision, Readout, Saliency, Task

AnyDataset = Annotated[
    DatasetEntry,
    pydantic.PlainValidator(registry.parse),
    pydantic.PlainSerializer(registry.dump),
]
"""A dataset of `sft_jax.data.registry`, or of another package, by its `name`."""


def check_heads(num_heads: int, devices: int) -> None:
    """Raises ValueError unless the devices of the `model` axis share the heads evenly."""
    if num_heads % devices:
        allowed = [str(n) for n in range(1, num_heads + 1) if num_heads % n == 0]
        raise ValueError(
            f"mesh.model={devices} does not divide model.num_heads={num_heads}; allowed are"
            f" {', '.join(allowed)}"
        )


@dataclass(frozen=True, config=STRICT)
class ModelConfig:
    """The network.

    Attributes:
      name: Model: sft (`sft_jax.SparseFusionTransformer`); a baseline: late, concat or unimodal
        (`sft_jax.modules.simple_fusion`), mbt (`sft_jax.modules.mbt`), mult
        (`sft_jax.modules.mult`); or the import path of a class of another package,
        `my_package.my_module:MyFusion`. A model uses those fields below that its class has.
      task: Kind of prediction, which determines head and metrics. It must be the task of the
        dataset; only ordered and unordered classes (ordinal, single_label) are interchangeable.
      width: Number of features of a token; `num_heads` must divide it.
      num_heads: Number of attention heads.
      n_pre: Number of transformer blocks for each modality before pooling.
      n_post: Number of transformer blocks on the fused tokens.
      pool: Pool that reduces the tokens of each modality: a name of `sft_jax.ops.pool.POOLS`, or
        the import path of a `Pool`. Only for sft, like k.
      k: Number of tokens kept of each modality, 0 for its CLS alone. A mapping sets a number for
        some modalities, and `others` that of the rest; on the command line `model.k.NAME`. A
        modality with fewer tokens keeps all, unless the mapping names it
        (`sft_jax.modules.budget.budgets`).
      saliency: Saliency that the pool ranks or weighs tokens by (`sft_jax.modules.sparse_pooling`).
        The choices are received, the paper's attention that each token receives; from_cls, the
        attention of CLS to it; and learned, a softmax of scores. Only for sft, with a pool that
        looks at it.
      readout: Token that sft reads its logits from.
      unimodal_attention: Keys that each query sees in the blocks of a modality. The choices are
        dense; windowed, whose cost is linear in the number of tokens (`sft_jax.WindowPattern`);
        and block_sparse, the pattern that the authors describe (`sft_jax.BlockSparsePattern`).
        Windowed differs from dense above 72 tokens, block_sparse above 33. Only for sft.
      pre_pooling_attention: Keys that each query sees in the attention before pooling, with the
        same choices, or none to leave this attention out. The authors' code computes dense
        attention. Only for sft.
      attention_kernel: Kernel that computes attention, which changes only the cost: a name of
        `sft_jax.ops.attention.kernels`, or the import path of a kernel.
      parts: Number of groups of examples that pass through the blocks of a modality in turn, to
        save memory; 0 for automatic (`sft_jax.modules.multimodal.MultimodalClassifier`).
      modality: Modality that unimodal classifies; only for that model.
      dropout: Rate of dropout inside the blocks and the pre-pooling attention.
      layer_drop: Rate of blocks that training drops, to evaluate with fewer; only for mbt.
      embedding_std: Standard deviation of the initial CLS and positions.
      dtype: Type that the activations are computed in; parameters stay float32.
      mlp_ratio: Width of the hidden layer of a block's MLP, in widths of a token; 1 in the paper's
        code. Not for mult, which always has 4.
      remat: Whether the gradient computes each block once more, so that training stores less.
      matmul_precision: Precision of products of float32: default, high or highest, as in
        `jax.lax.Precision`. By default TPUs round the factors to bfloat16 and GPUs to TF32;
        highest is as exact as float32. A CPU always computes in float32.
      tokenizers: Tokenizer by modality, in place of patches: conv, a small strided stem for raw
        waveforms and images (`sft_jax.modules.conv_stem`). Or the import path of a
        `flax.linen.Module`, or a class of one that needs no arguments
        (`sft_jax.modules.tokenizer.Tokenizer`).
      tokenizer_stride: Stride whose patches the kernels of the tokenizers are for; 0 for the
        largest of `train.elastic_patch`, 1 without it (`sft_jax.modules.stride`).
    """

    name: Annotated[str, named(MODELS)] = "sft"
    task: Task = "single_label"
    width: Count = 40
    num_heads: Count = 5
    n_pre: CountOrNone = 1
    n_post: CountOrNone = 11
    pool: Annotated[str, named(POOLS)] = "attn_topk"
    k: CountOrNone | dict[str, CountOrNone] = DEFAULT_K
    saliency: Saliency = "received"
    readout: Readout = "sum_cls"
    unimodal_attention: Literal["dense", "windowed", "block_sparse"] = "dense"
    pre_pooling_attention: Literal["dense", "windowed", "block_sparse", "none"] = "dense"
    attention_kernel: KernelName = field(default="auto", metadata=MAY_CHANGE)
    parts: CountOrNone = field(default=0, metadata=MAY_CHANGE)
    modality: str = ""
    dropout: Fraction = 0.0
    layer_drop: Fraction = 0.0
    embedding_std: Positive = 1.0
    dtype: Literal["float32", "bfloat16"] = "float32"
    mlp_ratio: Count = 1
    remat: bool = field(default=False, metadata=MAY_CHANGE)
    matmul_precision: MatmulPrecision = field(default="default", metadata=MAY_CHANGE)
    tokenizers: dict[str, Annotated[str, named(TOKENIZERS)]] = field(default_factory=dict)
    tokenizer_stride: CountOrNone = 0

    def __post_init__(self) -> None:
        if self.width % self.num_heads:
            raise ValueError(f"width={self.width} is not divisible by num_heads={self.num_heads}")
        # The model itself checks a pool of another package.
        if not (self.name == "sft" and self.pool in POOLS):
            return
        problems = saliency_problem(self.saliency, self.pool)
        if self.pre_pooling_attention == "none":
            problems += attention_problem(self.saliency, self.pool)
        if problems:
            raise ValueError(problems[0])


@dataclass(frozen=True, config=STRICT)
class OptimConfig:
    """The optimiser and its learning rate.

    Attributes:
      name: Optax's name of the optimiser, such as adamw or sgd; one of
        `sft_jax.training.optim.OPTIMIZERS`.
      lr: Peak learning rate.
      weight_decay: Decoupled weight decay of the kernels (not of biases, norms, positions),
        with any optimiser.
      options: Further keyword arguments of the optax optimiser.
      schedule: Learning rate after the warm-up: constant, cosine to 0, or plateau (the authors'
        choice). Plateau multiplies the rate by `plateau_factor` whenever the validation loss has
        not fallen for `plateau_patience` evaluations.
      warmup_epochs: Number of epochs over which the rate rises linearly from 0.
      plateau_factor: Factor of the plateau schedule; see `schedule`.
      plateau_patience: Number of evaluations of the plateau schedule; see `schedule`.
      clip_norm: Largest global 2-norm of the gradient; 0 for no clipping.
      groups: Factors of the learning rate by pattern, such as `{"tokenizer_.*": 0.0, "head": 10.0}`
        or the same pairs in a tuple. 0 freezes. A regular expression covers the parameters whose
        path, or a folder of whose path, it matches; the first that matches counts
        (`sft_jax.training.groups`).
      layer_decay: Factor of the learning rate from each layer to the one below it; 1 for equal
        rates.
    """

    name: str = "adamw"
    lr: Positive = 1e-3
    weight_decay: NonNegative = 0.0
    options: dict[str, Any] = field(default_factory=dict)
    schedule: Literal["constant", "cosine", "plateau"] = "cosine"
    warmup_epochs: NonNegative = 1.0
    plateau_factor: Annotated[float, Field(gt=0, lt=1)] = 0.1
    plateau_patience: Count = 10
    clip_norm: NonNegative = 0.8
    groups: RateGroups = ()
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0


@dataclass(frozen=True, config=STRICT)
class TrainConfig:
    """Length of training, batches, loss and checkpoints.

    Attributes:
      epochs: Number of passes over the training examples.
      init_from: Run directory or folder of `export.py --format=safetensors`, also `gs://...`, whose
        parameters the run begins with (`sft_jax.training.transfer`); empty for random ones.
      batch_size: Number of examples per optimiser step, over all devices and hosts.
      accumulate: Number of micro-batches per step, to save memory; must divide `batch_size`.
      loss: Loss of training and validation: a name of `sft_jax.ops.losses.LOSSES` that fits the
        task, or the import path of a function; auto for the usual loss of the task.
      class_weights: Weight of each class in the training loss. Balanced gives all classes the same
        total weight, by their numbers of training examples. A mapping gives a weight by name or
        index of a class, and others have 1; on the command line `no=1,yes=6`. With multi_label
        the weight is of the examples that have the label. Empty for none
        (`sft_jax.data.class_weights`).
      sampling: Order of the training examples: shuffled, each once in an epoch; or balanced, every
        class equally often (`sft_jax.data.sampling`). An epoch has the same length with both.
      label_smoothing: Probability mass spread evenly over the classes. With multi_label each label
        moves by half of it towards the opposite value; with regression it must be 0.
      modality_dropout: Probability that a training example loses a modality; it never loses its
        last one.
      elastic_k: Numbers of kept tokens that the model is trained for at once, at least two; empty
        for `model.k` alone. Each step takes the smallest, the largest, and one drawn from the
        others, which also learn from the largest (`sft_jax.training.elastic`). Validation uses
        `model.k`. Only for sft.
      elastic_patch: Strides that the model is trained for at once, with 1; empty for 1 alone. With
        stride `s` a patch is `s` times as long along each axis. Each step trains with one of them
        (`sft_jax.training.strides`). Validation uses 1.
      ema_decay: Decay of the running mean of the parameters, which is evaluated in their place; 0
        evaluates the parameters themselves. After `t` steps the decay is
        `min(ema_decay, (1 + t) / (10 + t))`, so that the random start is soon forgotten.
      evaluate_every_epochs: Number of epochs between validations; a checkpoint follows each.
      best_metric: Validation metric that selects the best checkpoint: one of the task
        (`sft_jax.selection.TASK_METRICS`), or `FAMILY.METRIC` with a family of metrics.
      patience: Number of evaluations after which training ends unless `best_metric` has improved;
        0 to train for all `epochs`.
      log_every_steps: Number of steps between lines of the log.
      keep_latest: Number of latest checkpoints to keep on disk.
    """

    epochs: Count = 20
    init_from: str = folder_field(may_change=False)
    batch_size: Count = 64
    accumulate: Count = 1
    loss: str = "auto"
    class_weights: ClassWeights = ""
    sampling: Literal["shuffled", "balanced"] = "shuffled"
    label_smoothing: Fraction = 0.0
    modality_dropout: Fraction = 0.0
    elastic_k: tuple[CountOrNone, ...] = ()
    elastic_patch: tuple[Count, ...] = ()
    ema_decay: Fraction = 0.0
    evaluate_every_epochs: Count = 1
    best_metric: str = "loss"
    patience: CountOrNone = 0
    log_every_steps: Count = field(default=10, metadata=MAY_CHANGE)
    keep_latest: Count = field(default=2, metadata=MAY_CHANGE)

    def __post_init__(self) -> None:
        if self.batch_size % self.accumulate:
            raise ValueError(
                f"batch_size={self.batch_size} is not divisible by accumulate={self.accumulate}"
            )
        different = len({*self.elastic_k})
        if different < len(self.elastic_k) or different == 1:
            raise ValueError(
                f"elastic_k={self.elastic_k} must be empty, or at least two numbers, each once"
            )
        different = len({1, *self.elastic_patch})
        if self.elastic_patch and (different == 1 or different != len(self.elastic_patch)):
            raise ValueError(
                f"elastic_patch={self.elastic_patch} must be empty, or 1 and at least one larger"
                " number, each once"
            )


@dataclass(frozen=True, config=STRICT)
class MixupConfig:
    """Multimodal manifold mixup; see `sft_jax.ops.mixup`.

    Attributes:
      layers: Blocks from which each step draws one to mix its output: within (the first `n_pre`),
        fused (the others), any; none for no mixup.
      alpha: Parameter of Beta(alpha, alpha), the distribution of the shares.
      shares: Shares of an example: per_modality for a share for each modality, static for a single
        share.
      warmup_epochs: Number of initial epochs without mixup.
      consistent: Whether labels are mixed with the shares of the features. False follows the
        authors' code, which mixes fused features with another share than their labels.
    """

    layers: Literal["none", "within", "fused", "any"] = "none"
    alpha: Positive = 0.3
    shares: Literal["per_modality", "static"] = "per_modality"
    warmup_epochs: NonNegative = 5.0
    consistent: bool = True


@dataclass(frozen=True, config=STRICT)
class MeshConfig:
    """Use of the devices, which changes results only by rounding.

    A run may resume with another mesh, on any number of devices. See
    `sft_jax.parallel.sharding`.

    Attributes:
      data: Number of devices that share the examples of a batch, each with all parameters; 0 for
        all devices that the other axes leave.
      fsdp: Number of devices that share both the examples and the parameters.
      model: Number of devices of one process that share the heads and the hidden features; must
        divide `model.num_heads`.
    """

    data: CountOrNone = 0
    fsdp: Count = 1
    model: Count = 1


@dataclass(frozen=True, config=STRICT)
class SystemConfig:
    """Input, tracing and caching, which do not affect results.

    Attributes:
      batches_ahead: Number of training batches that are put on the devices before the step that
        takes them, at most. Each takes as much of their memory as the inputs of a step.
      read_threads: Number of threads that read the examples of a training batch; 0 for one for
        each core, up to 16, or a single one if the examples are in memory.
      trace_from: First step, counted from 1, that `jax.profiler` records, into `trace/` of the
        run directory. The first step of a start is slow, since it compiles.
      trace_steps: Number of recorded steps; 0 for none.
      compilation_cache: Folder of compiled programs, unless `--compilation_cache` names one;
        empty for the default of that flag.
    """

    batches_ahead: CountOrNone = 2
    read_threads: CountOrNone = 0
    trace_from: Count = 10
    trace_steps: CountOrNone = 0
    compilation_cache: str = folder_field()


@dataclass(frozen=True, config=STRICT)
class ExperimentConfig:
    """One experiment.

    Attributes:
      seed: Seed of parameters, shuffling, dropout, mixup and random pools.
      seeds: Seeds of several runs, which train.py trains in place of one run with `seed`, each in
        a folder of its own (`sft_jax.experiment.train_seeds`); empty for one run.
      data: Dataset.
      model: Network.
      optim: Optimiser.
      train: Training loop.
      mixup: Mixing of examples.
      mesh: Use of the devices. Like all fields marked `MAY_CHANGE`, it may change when a run
        resumes.
      system: Input, tracing and caching.
    """

    seed: Seed = 0
    seeds: tuple[Seed, ...] = ()
    data: AnyDataset = field(default_factory=WatchData)
    model: ModelConfig = field(default_factory=ModelConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    mixup: MixupConfig = field(default_factory=MixupConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig, metadata=MAY_CHANGE)
    system: SystemConfig = field(default_factory=SystemConfig, metadata=MAY_CHANGE)

    def __post_init__(self) -> None:
        if repeated := sorted({seed for seed in self.seeds if self.seeds.count(seed) > 1}):
            raise ValueError(
                f"seeds={self.seeds} has {', '.join(map(str, repeated))} more than once; allowed"
                " are integers from 0 to 2147483647, each once"
            )
        if self.train.elastic_patch and not self.model.tokenizer_stride:
            # Recorded with the run, as every later command builds the model from its section.
            model = replace(self.model, tokenizer_stride=max(self.train.elastic_patch))
            object.__setattr__(self, "model", model)
        check_heads(self.model.num_heads, self.mesh.model)
        check_objective(self.model.task, self.train)
        if self.train.elastic_k and (self.model.name != "sft" or self.model.pool == "none"):
            raise ValueError(
                f"train.elastic_k={self.train.elastic_k} needs model.name='sft' and a model.pool"
                f" that keeps k tokens, got {self.model.name!r} and {self.model.pool!r}"
            )
        blocks = {
            "within": ("n_pre", self.model.n_pre),
            "fused": ("n_post", self.model.n_post),
            "any": ("n_pre + n_post", self.model.n_pre + self.model.n_post),
        }
        name, count = blocks.get(self.mixup.layers, ("", 1))
        if count == 0:
            raise ValueError(
                f"mixup.layers={self.mixup.layers!r} has no layer to mix: model.{name} is 0"
            )
