"""The paper's own scale, and which of the authors' curves are which runs."""

from tf_lottery.studies.definition import Sweep

NATURAL_TRAINING = {"objective": "natural", "search_objective": "natural", "attacks": ()}
CIFAR10 = {
    "dataset": "cifar10", "train_examples": 0, "validation_examples": 5000, "test_examples": 0,
    "width_multiplier": 1.0, "depth": 0, "epochs": 100, "search_epochs": 100,
}  # fmt: skip
EPOCHS = Sweep("sweep_epochs", (20, 40, 60, 80, 100), whole=True)

# Of the authors' curves: family -> kind -> run.
CURVES = {
    "vgg": {
        "dense": "pruning_ratio/0/init_enhance_m0.01_warmup0.1",
        "boosting": "boost/vgg16/boosting",
        "winning": "boost/vgg16/winning",
        "reinit": "boost/vgg16/rand_init",
    },
    "resnet18": {
        # None of the dense network: the authors' run had no warm-up.
        "boosting": "boost/resnet18/nat/pruned1_epoch100/init_pure/boosting",
        "winning": "boost/resnet18/nat/pruned1_epoch100/init_pure/winning",
        "reinit": "boost/resnet18/nat/pruned1_epoch100/init_pure/rand_init",
    },
}
