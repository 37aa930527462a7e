"""Checks of a row's learning: how its dictionary starts, how it is trained, and which columns have no effect on it."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lmsae.dictionary.config import DictionaryConfig
from lmsae.initialization import layer_weights
from lmsae.initialization.config import FROM_MODEL, InitConfig
from lmsae.planning.draft import Check, Refusal
from lmsae.sparsity.capabilities import TakesAnyK
from lmsae.stages.sites import Places
from lmsae.training.config import TrainConfig
from lmsae.training.objective import Objective


def decoder_can_start_so(init: InitConfig, dictionary: DictionaryConfig, objective: Objective) -> Iterator[Refusal]:
    kind, start = dictionary.geometry.kind, init.decoder_init
    if kind == "molt" and start != "unit":
        message = "a molt writes by matrices and has no decoder rows; leave it at unit"
        yield Refusal("init.decoder_init", message)
    elif start == "kaiming" and objective.unit_norm_decoder:
        message = "kaiming leaves norms as they fall, but sae.unit_norm_decoder wants 1; use uniform"
        yield Refusal("init.decoder_init", message)
    elif start == "pca":
        yield from _directions_are_principal(dictionary)
    elif kind == "lorsa" and init.from_model and start != "unit":
        message = "a lorsa from the model has the directions of its heads; leave it at unit"
        yield Refusal("init.decoder_init", message)


def _directions_are_principal(dictionary: DictionaryConfig) -> Iterator[Refusal]:
    kind, most = dictionary.geometry.kind, 2 * dictionary.widths.writes[0]
    if kind != "sae":
        yield Refusal("init.decoder_init", f"pca is for what reads and writes one hook point, and not for a {kind}")
    elif dictionary.act_fn.kind == "abstopk":
        message = "pca starts each direction and its opposite, which are one latent of abstopk: use topk"
        yield Refusal("init.decoder_init", message)
    elif dictionary.d_sae > most:
        message = f"it is {dictionary.d_sae:,}, but init.decoder_init pca has {most:,} directions, two a dimension"
        yield Refusal("sae.d_sae", message)


def encoder_can_start_so(init: InitConfig, dictionary: DictionaryConfig) -> Iterator[Refusal]:
    init = init.settled(dictionary)
    if init.encoder_factor != 1 and getattr(dictionary.geometry, "tied_encoder", False):
        message = "sae.tied_encoder makes the encoder the decoder transposed; leave the factor at 1"
        yield Refusal("init.encoder_factor", message)
    if init.b_enc != "zero" and dictionary.act_fn.brings_bias:
        message = f"{dictionary.act_fn.kind} brings its own biases, and there is no encoder bias; leave it at zero"
        yield Refusal("init.b_enc", message)


def weights_can_come_from_the_model(init: InitConfig, dictionary: DictionaryConfig) -> Iterator[Refusal]:
    kind, units = dictionary.geometry.kind, dictionary.normalize_activations
    if not init.from_model:
        return
    if kind not in FROM_MODEL:
        message = f"a {kind} has no counterpart in the model; only {', '.join(FROM_MODEL)} have"
    elif dictionary.act_fn.brings_bias:
        message = (
            f"{dictionary.act_fn.kind} has no encoder bias to take over from the model; use relu, jumprelu or topk"
        )
    elif getattr(dictionary.geometry, "glu_encoder", False):
        message = "the gate of sae.glu_encoder has no counterpart in the model; leave it off"
    elif units in ("token", "layer_norm"):
        message = f"no weights undo sae.normalize_activations {units}; use dataset, whiten or none"
    else:
        return
    yield Refusal("init.from_model", message)


def the_model_has_such_weights(
    init: InitConfig, dictionary: DictionaryConfig, places: Places, model_configs: Sequence[Mapping[str, Any]]
) -> Iterator[Refusal]:
    if not init.from_model or dictionary.geometry.kind not in FROM_MODEL:
        return
    read, written = places.reads[0].hook_point, places.writes[0].hook_point
    why = layer_weights.fault(dictionary.geometry.kind, read, written, model_configs[0])
    if why is None and dictionary.geometry.kind == "lorsa":
        why = layer_weights.heads_fault(dictionary.geometry, model_configs[0])
    if why:
        yield Refusal("init.from_model", why)


def one_model_is_spliced(objective: Objective, model_configs: Sequence[Mapping[str, Any]]) -> Iterator[Refusal]:
    if objective.needs_model and len(model_configs) > 1:
        kinds = " and ".join(loss.kind for loss in objective.losses if loss.needs_model)
        yield Refusal("sae.losses", f"{kinds} runs one model, not several; leave model.others empty")


def optimizer_keeps_unit_rows(train: TrainConfig, objective: Objective) -> Iterator[Refusal]:
    if train.optimizer == "schedule_free" and objective.unit_norm_decoder:
        message = "schedule_free averages weights, and means of unit rows have no norm of 1: use adam"
        yield Refusal("train.optimizer", f"{message}, or sae.unit_norm_decoder false")


def decoder_rows_can_stay_near(train: TrainConfig, dictionary: DictionaryConfig) -> Iterator[Refusal]:
    if train.decoder_min_cosine is not None and not dictionary.geometry.writes_directions:
        message = f"a {dictionary.geometry.kind} writes by matrices and has no decoder rows: leave it empty"
        yield Refusal("train.decoder_min_cosine", f"{message}, or freeze them (train.decoder_lr_factor 0)")


def k_can_change(train: TrainConfig, dictionary: DictionaryConfig) -> Iterator[Refusal]:
    act_fn = dictionary.act_fn
    if not train.initial_k:
        return
    if TakesAnyK not in act_fn.offers:
        message = f"{act_fn.kind} cannot change the number of its codes in training: leave it empty, or use topk"
        yield Refusal("train.initial_k", message)
    elif train.initial_k > dictionary.d_sae:
        yield Refusal("train.initial_k", f"it is {train.initial_k:,}, but there are only {dictionary.d_sae:,} latents")


def dead_latents_can_be_resampled(train: TrainConfig, dictionary: DictionaryConfig) -> Iterator[Refusal]:
    geometry, act_fn, column = dictionary.geometry, dictionary.act_fn, "train.resample_steps"
    if not train.resample_steps:
        return
    if geometry.kind != "sae":
        message = f"it takes decoder rows from the input, and a {geometry.kind} writes something else"
        yield Refusal(column, f"{message}: use the aux_k loss")
    elif geometry.tied_encoder or geometry.glu_encoder:
        message = "it sets encoder and decoder apart, and no gate: leave sae.tied_encoder and sae.glu_encoder false"
        yield Refusal(column, message)
    frozen = [part for part in ("encoder", "decoder", "bias") if not getattr(train, f"{part}_lr_factor")]
    if frozen:
        message = f"it would change what train.{frozen[0]}_lr_factor 0 freezes: leave one of them out"
        yield Refusal(column, message)
    if train.decoder_min_cosine is not None:
        message = "it starts decoder rows anew, which train.decoder_min_cosine keeps near their start"
        yield Refusal(column, f"{message}: leave one of them out")
    if act_fn.brings_bias or act_fn.kind == "jumprelu":
        message = f"it leaves the biases and thresholds of {act_fn.kind} as they are, and with them latents dead"
        yield Refusal(column, f"{message}: use the pre_act loss for jumprelu, or another activation function")


def kept_steps_are_those_of_the_run(train: TrainConfig) -> Iterator[Refusal]:
    """Steps that all rows share may be more than a short row has."""
    beyond = [steps for steps in train.keep_steps if isinstance(steps, int) and steps >= train.steps > 0]
    if beyond:
        message = f"this row trains for {train.steps:,} steps; wanted: fewer than that, and not {beyond[0]:,} (the last"
        yield Refusal("train.keep_steps", f"{message} dictionary is the artifact itself)", only_if_own=True)


def columns_have_an_effect(
    init: InitConfig, train: TrainConfig, dictionary: DictionaryConfig, objective: Objective
) -> Iterator[Refusal]:
    """Rows that write a column without effect are refused: they would be other artifacts with the same bytes."""
    geometry, act_fn, init = dictionary.geometry, dictionary.act_fn, init.settled(dictionary)
    searches = geometry.autoencodes if init.grid_search is None else init.grid_search
    rotates = getattr(geometry, "lorsa_rotary", True)
    needs = (
        ("init.datapoint_blend", init.decoder_init == "datapoint", "init.decoder_init datapoint"),
        ("init.subspace_rank", init.decoder_init == "active_subspace", "init.decoder_init active_subspace"),
        ("init.decoder_norm", not searches, "init.grid_search false, for a search chooses the norm"),
        ("init.tokens", searches or init.b_enc != "zero", "init.grid_search true or init.b_enc minus_mean_pre"),
        ("train.lr_cool_down_steps", train.lr_schedule == "trapezoid", "train.lr_schedule trapezoid"),
        ("train.lr_end_ratio", train.lr_schedule != "constant", "a train.lr_schedule that falls"),
        ("train.k_cold_boot_steps", train.initial_k, "train.initial_k"),
        ("train.k_warm_up_steps", train.initial_k, "train.initial_k"),
        ("train.k_schedule", train.initial_k, "train.initial_k"),
        ("train.eval_tokens", train.eval_steps, "train.eval_steps above 0"),
        ("train.resample_times", train.resample_steps, "train.resample_steps above 0"),
        ("train.threshold_lr_factor", act_fn.kind == "jumprelu", "jumprelu, which alone learns thresholds by gradient"),
        ("train.encoder_lr_factor", not getattr(geometry, "tied_encoder", False), "an encoder that is not tied"),
        (
            "train.decoder_min_cosine",
            train.decoder_lr_factor,
            "train.decoder_lr_factor above 0",
        ),
        (
            "train.sparsity_warm_up_steps",
            any(loss.sparsifies for loss in objective.losses),
            "a loss that makes codes sparse",
        ),
        ("sae.lorsa_rotary_dim", rotates, "sae.lorsa_rotary true"),
        ("sae.lorsa_rotary_base", rotates, "sae.lorsa_rotary true"),
    )
    for column, has_effect, needed in needs:
        if not has_effect:
            message = f"changes nothing in this row: it needs {needed}. Leave the cell empty"
            yield Refusal(column, message, only_if_own=True)


CHECKS: tuple[Check, ...] = (
    decoder_can_start_so,
    encoder_can_start_so,
    weights_can_come_from_the_model,
    the_model_has_such_weights,
    one_model_is_spliced,
    optimizer_keeps_unit_rows,
    decoder_rows_can_stay_near,
    k_can_change,
    dead_latents_can_be_resampled,
    kept_steps_are_those_of_the_run,
    columns_have_an_effect,
)
