"""The stages, one file each, in the order of the pipeline."""

from lmsae.stages import activations, evaluate, init, norm, report, tokenize, train
from lmsae.stages.stage import Stage

STAGES: dict[str, Stage] = {
    module.STAGE.name: module.STAGE for module in (tokenize, activations, norm, init, train, evaluate, report)
}
