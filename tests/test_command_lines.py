"""Command lines with a mistake: one line that says what was expected, what was received, the cure.

Every program answers all of its bad command lines in one process; nothing may be left behind.
"""

import json

import programs
import pytest
import tensorflow as tf
from run_folders import assert_one_line

from tf_direct_opt.runs import command_line

# The folder of the files that the command lines name.
HERE = "HERE"

RUN = [
    ("--epochs=0", "epochs"),
    ("--epochs=x", "epochs"),
    (f"--epochs={10**20}", "epochs"),
    ("--output_dir=~nobody-here/x", "whose home directory cannot be found"),
    ("--output_dir=gs://bucket/run", "received the address gs://bucket/run. Please give a path"),
    ("--dataset=mnist --data_dir=~nobody-here", "whose home directory cannot be found"),
    ("--batch_size=0", "batch_size"),
    ("--batch_size=5000", "1437 training images; received 5000"),
    ("--learning_rate=-1", "learning_rate"),
    ("--learning_rate=nan", "--learning_rate to be a finite number"),
    ("--learning_rate=inf", "--learning_rate to be a finite number"),
    ("--learning_rate_schedule=linear", "<cosine|constant>"),
    ("--seed=-1", "seed"),
    (f"--seed={2**40}", "seed"),
    ("--steps_per_execution=0", "steps_per_execution"),
    ("--steps_per_execution=3", "Expected --steps_per_execution to divide the 1"),
    ("--distribute=tpu", "<none|mirrored|multi_worker>"),
    ("--distribute=mirrored --jit_compile", "Expected --distribute=mirrored without"),
    ("--distribute=multi_worker", "Expected the environment variable TF_CONFIG to name"),
    ("--dtype_policy=float8", "dtype_policy"),
    ("--watch=train", "<valid|test>"),
    ("--watch_every=0", "watch_every"),
    ("--watch_every=101", "Expected --watch_every of at most the 100 --epochs"),
    ("--verbose=3", "verbose"),
    ("--resume", "Expected --output_dir with --resume"),
    ("--output_dir=", "received an empty name"),
    (f"--output_dir={HERE}/file", "Expected --output_dir to be a folder that can be written"),
    ("--output_dir=/proc/nothing/x", "Expected --output_dir to be a folder that can be written"),
    (f"--output_dir={'a' * 300}", "File name too long"),
    (f"--output_dir={HERE}/results", "which holds history.csv, but no flags.txt"),
    (f"--output_dir={HERE}/results --resume", "which holds history.csv, but no flags.txt"),
    (f"--output_dir={HERE}/run", "holds a run already. Please add --resume"),
    (f"--output_dir={HERE}/run --resume", "Expected the flags of the run in"),
    (f"--output_dir={HERE}/damaged --resume", "received a damaged file"),
    (f"--output_dir={HERE}/checkpoints_is_a_file", "checkpoints to be a folder"),
    (f"--output_dir={HERE}/history_is_a_folder", "history.csv to be a file"),
    ("--dataset=cifar", "value should be one of <digits|mnist|"),
    ("--dataset=mnist --data_dir=/nowhere", "Expected the data set 'mnist'"),
    (f"--dataset=mnist --data_dir={HERE}/tfds", "dataset_info.json"),
    ("--binarize=dither", "<threshold|bernoulli|none>"),
    ("--num_train=0", "num_train"),
    ("--num_train=5000", "training and validation images of digits; received 5000"),
    ("--optimizer=sgd", "<adam|radam>"),
    ("--epochz=3", "Unknown command line flag 'epochz'"),
    ("stray", "Expected flags only; received the arguments ['stray']"),
    ("--flagfile=/nowhere", "/nowhere"),
    (f"--flagfile={HERE}/latin1.flags", "utf-8"),
    ("--hidden_units=0", "hidden_units"),
    ("--likelihood=poisson", "<bernoulli|gaussian|discretised_logistic|categorical>"),
    ("--epsilon=0", "has to be positive"),
    ("--epsilon=nan", "epsilon"),
    ("--epsilon=inf", "--epsilon to be a finite number"),
    ("--epsilon_final=-0.1", "has to be positive"),
    ("--epsilon_rate=-1", "epsilon_rate"),
    ("--epsilon_schedule=linear", "<two_phase|constant|exponential>"),
    ("--difference=up", "<toward_better|away_from_worse|central>"),
    ("--kl_schedule=cubic", "kl_schedule"),
    ("--kl_weight=-1", "kl_weight"),
    ("--kl_weight=nan", "--kl_weight to be a finite number"),
    ("--kl_weight_first=0", "has to be positive"),
    ("--kl_schedule=annealed --kl_weight=20", "Expected 0 < --kl_weight <= --kl_weight_first"),
    ("--warmup_epochs=-1", "warmup_epochs"),
]
ESTIMATOR = [
    ("--estimator=reinforce", "Expected `estimator` to be one of"),
    ("--temperature=0", "has to be positive"),
    ("--temperature=inf", "--temperature to be a finite number"),
    ("--temperature_rate=-1", "temperature_rate"),
    ("--temperature_final=0", "has to be positive"),
    ("--temperature=0.05", "Expected --temperature of at least --temperature_final"),
]
OUT = f"--output_dir={HERE}/new"
LINES = {
    "examples/train_vae.py": [
        *RUN,
        *ESTIMATOR,
        ("--k=1", "k=1"),
        ("--k=two", "k=two"),
        ("--k=1000000", "fit into memory"),
        ("--num_variables=0", "num_variables"),
        ("--prior=normal", "<uniform|learned>"),
        ("--encoder_units=x", "Expected integers of at least 1 in --encoder_units"),
        ("--decoder_units=0", "Expected integers of at least 1 in --decoder_units"),
        ("--encoder_units=1000000,1000000", "fit into memory"),
        ("--eval_samples=0", "eval_samples"),
        ("--estimator=exact --num_variables=2", "Expected one variable"),
        ("--estimator=disarm --k=3", "Expected"),
    ],
    "examples/train_structured_vae.py": [
        *RUN,
        ("--n=0", "n=0"),
        ("--n=21", "Expected --n of at most 20 with --solver=enumerate"),
        (
            "--n=21 --structure=none --perturbation=configurations",
            "Expected --n of at most 20 with --perturbation=configurations",
        ),
        ("--num_candidates=1", "num_candidates"),
        ("--structure=tree", "<pairwise|none>"),
        ("--solver=simplex", "<enumerate|maxflow|milp>"),
        ("--perturbation=pairs", "<unary|all|configurations>"),
        ("--solver=maxflow --perturbation=configurations", "Expected --solver=enumerate with"),
        ("--solver=maxflow --perturbation=all", "Expected --perturbation=unary with"),
        ("--solver=maxflow --nononnegative", "Expected --nonnegative couplings"),
        ("--solver=milp --jit_compile", "Expected --nojit_compile"),
        ("--solver=maxflow --n=20000", "fit into memory"),
    ],
    "examples/train_semi_supervised.py": [
        *RUN,
        *ESTIMATOR,
        ("--num_labels=0", "num_labels"),
        ("--num_labels=5000", "Expected from 1 to 1437 labels"),
        ("--num_labels=105", "Expected a number of labels that the 10 classes divide"),
        ("--num_labels=1430", "Expected 143 labelled images of each class; received"),
        ("--labelled_per_batch=0", "labelled_per_batch"),
        ("--labelled_per_batch=100", "Expected --labelled_per_batch below the --batch_size"),
        ("--label_epochs=-1", "label_epochs"),
        ("--label_epsilon=0", "has to be positive"),
        ("--label_epsilon=nan", "label_epsilon"),
        ("--label_cost=-1", "has to be positive"),
        ("--label_cost=inf", "--label_cost to be a finite number"),
        ("--label_loss=hinge", "<direct|cross_entropy>"),
        ("--gaussian_dim=0", "gaussian_dim"),
        ("--encoder=transformer", "<dense|conv>"),
        ("--max_shift=-1", "max_shift"),
        ("--max_rotation=nan", "--max_rotation to be a finite number"),
        ("--max_zoom=2", "max_zoom"),
        ("--max_shear=inf", "--max_shear to be a finite number"),
        ("--dataset=omniglot", "Expected a --dataset whose parts have classes in common"),
    ],
    "examples/train_conv_vae.py": [
        *ESTIMATOR,
        ("--k=1", "k=1"),
        ("--stride=3", "<2|4|8>"),
        ("--stride=8 --patch_size=12", "Expected --stride to divide the images of 12 by 12"),
        ("--prior=normal", "<uniform|learned>"),
        ("--likelihood=poisson", "<bernoulli|gaussian|discretised_logistic|categorical>"),
        ("--eval_samples=0", "eval_samples"),
        ("--patch_size=2", "patch_size"),
        ("--patch_size=65", "Expected --patch_size of at most 64"),
        ("--dataset=cifar10 --data_dir=/nowhere", "prepared by TFDS under /nowhere"),
        ("--dataset= --data_dir=/nowhere", "prepared by TFDS under /nowhere"),
        ("--num_train=9999999", "training and validation images of sample_images; received"),
        ("--batch_size=999999", "training images; received 999999"),
        ("--hidden_units=0", "hidden_units"),
        ("--estimator=exact", "Expected one variable"),
        ("--resume", "Expected --output_dir with --resume"),
        (f"--output_dir={HERE}/run", "holds a run already. Please add --resume"),
        ("stray", "Expected flags only"),
    ],
    "experiments/compare_estimators.py": [
        ("", "Expected --output_dir"),
        (f"{OUT} --shard=3/2", "Expected --shard=i/n with i from 1 to n; received '3/2'"),
        (f"{OUT} --shard=0/2", "Expected --shard=i/n with i from 1 to n; received '0/2'"),
        (f"{OUT} --shard=1", "Expected --shard=i/n with i from 1 to n; received '1'"),
        (f"{OUT} --processes=0", "processes"),
        (f"{OUT} --distribute=multi_worker", "Expected --distribute=none or mirrored for many"),
        (f"{OUT} --k=3", "Expected --ks here; received --k."),
        (f"{OUT} --dataset=digits", "Expected --datasets here"),
        (f"{OUT} --seed=3", "Expected --seeds here"),
        (f"{OUT} --estimator=direct", "Expected --estimators here"),
        (f"{OUT} --ks=1", "Expected integers of at least 2 in --ks"),
        (f"{OUT} --ks=2,x", "Expected integers of at least 2 in --ks"),
        (f"{OUT} --ks=", "Expected at least one entry in --ks"),
        (f"{OUT} --seeds=-1", "Expected integers of at least 0 in --seeds"),
        (f"{OUT} --seeds={2**40}", "Expected integers of at least 0 in --seeds"),
        (f"{OUT} --estimators=", "Expected at least one entry in --estimators"),
        (f"{OUT} --estimators=direct,magic", "Expected `estimator` to be one of"),
        (f"{OUT} --estimators=direct,exact --num_variables=2", "Expected one variable"),
        (f"{OUT} --datasets=cifar", "Expected --datasets of digits, mnist"),
        (f"{OUT} --datasets=mnist --data_dir=/nowhere", "Expected the data set 'mnist'"),
        (f"{OUT} --limits=/nowhere", "Expected --limits to be the output of"),
        (f"{OUT} --limits={HERE}/file", "Expected --limits to be the output of"),
        (f"{OUT} --watch_every=200", "Expected --watch_every of at most"),
        (f"{OUT} --decoder_evaluations=0", "decoder_evaluations"),
        (f"{OUT} --decoder_evaluations=5 --cpu_seconds=5", "Expected --learning_rate_schedule="),
        (f"{OUT} --cpu_seconds=nan", "cpu_seconds"),
        (f"--output_dir={HERE}/file", "Expected --output_dir to be a folder"),
        (f"{OUT} stray", "Expected flags only"),
    ],
    "experiments/semi_supervised_table.py": [
        ("", "Expected --output_dir"),
        (f"{OUT} --shard=3/2", "Expected --shard=i/n with i from 1 to n; received '3/2'"),
        (f"{OUT} --shard=0/2", "Expected --shard=i/n with i from 1 to n; received '0/2'"),
        (f"{OUT} --shard=1", "Expected --shard=i/n with i from 1 to n; received '1'"),
        (f"{OUT} --processes=0", "processes"),
        (f"{OUT} --distribute=multi_worker", "Expected --distribute=none or mirrored for many"),
        (f"{OUT} --num_labels=50", "Expected --label_counts here; received --num_labels."),
        (f"{OUT} --methods=svm", "Expected --methods of direct"),
        (f"{OUT} --once=svm", "Expected --once of the methods that are run, direct"),
        (f"{OUT} --methods=direct --once=supervised", "Expected --once of the methods"),
        (f"{OUT} --label_counts=ten", "Expected integers of at least 1 in --label_counts"),
        (f"{OUT} --label_counts=50,105", "that the 10 classes divide"),
        (f"{OUT} --label_counts=50,5000", "Expected from 1 to 1437 labels"),
        (f"{OUT} --seeds=", "Expected at least one entry in --seeds"),
        (f"{OUT} --datasets=omniglot", "whose parts have classes in common"),
        (f"{OUT} --supervised_epochs=0", "supervised_epochs"),
    ],
    "experiments/gradient_quality.py": [
        (f"{OUT} --k=20 --num_variables=3", "Expected at most 4096 codes"),
        (f"{OUT} extra", "Expected flags only"),
        (f"{OUT} --draws=1", "draws"),
        (f"{OUT} --estimators=magic", "Expected --estimators of"),
        (f"{OUT} --estimators=disarm --k=3", "Expected --estimators of"),
        ("--output_dir=", "received an empty name"),
    ],
    "experiments/figure1.py": [
        ("--tables=/nowhere", "Expected the table of a comparison"),
        ("--tables=", "Expected at least one entry in --tables"),
        (f"--tables={HERE}/table.csv --limits=/nowhere", "Expected --limits to be the output"),
        (f"--tables={HERE}/table.csv --output=/nowhere/a.png", "Expected --output to be a .png"),
        (f"--tables={HERE}/table.csv --output=a.svg", "Expected --output to be a .png"),
        ("--shown_k=1", "shown_k"),
        (f"--tables={HERE}/table.csv", "Expected --shown_k of one of the tables"),
    ],
    "experiments/plot_comparison.py": [
        ("", "table"),
        ("--table=/nowhere", "Expected the table of a comparison"),
        (f"--table={HERE}/file", "Expected the table of a comparison"),
        (f"--table={HERE}/other.csv", "Expected the table of a comparison"),
        (f"--table={HERE}/cut.csv", "Expected the table of a comparison"),
        (f"--table={HERE}/table.csv --limits=/nowhere", "Expected --limits to be the output"),
        (f"--table={HERE}/table.csv --across=time", "Expected --across of epoch"),
        (f"--table={HERE}/table.csv --across=epoch:x", "Expected --across of epoch"),
        (f"--table={HERE}/table.csv --across=", "Expected at least one entry in --across"),
        (f"--table={HERE}/table.csv --output_dir=/nowhere", "Expected --output_dir to be a folder"),
    ],
    "examples/learn_matching.py": [
        ("--seeds=x", "Expected integers of at least 0 in --seeds"),
        ("--seeds=1,01", "Expected every entry of --seeds once"),
        ("--seeds=", "Expected at least one entry in --seeds"),
        ("--epochs=0", "epochs"),
        ("--method=magic", "method"),
        ("--learning_rate=-1", "learning_rate"),
        ("--learning_rate=nan", "finite number"),
        ("--pixel_noise=-1", "pixel_noise"),
        ("--task=numbers --pixel_noise=0.1", "Expected no --pixel_noise with --task=numbers"),
        ("--temperature=1", "Expected no --temperature with --method=direct"),
        ("--epsilon=0", "has to be positive"),
        ("--temperature=0", "has to be positive"),
        ("--output_dir=", "received an empty name"),
        (f"--output_dir={HERE}/file", "folder"),
        ("stray", "Expected flags only"),
    ],
    "examples/predict_then_optimize.py": [
        ("--seeds=x", "Expected integers of at least 0 in --seeds"),
        ("--method=magic", "method"),
        ("--problem=tour", "<path|knapsack|assignment>"),
        ("--degree=0", "degree"),
        ("--noise=2", "noise"),
        ("--noise=nan", "noise"),
        ("--size=1", "size"),
        ("--epochs=0", "epochs"),
        ("--batch_size=0", "batch_size"),
        ("--num_examples=1", "num_examples"),
        ("--method=spo_plus --epsilon=1", "Expected no --epsilon with --method=spo_plus"),
        ("--learning_rate=-1", "learning_rate"),
        ("--epsilon=0", "has to be positive"),
        ("--noise_scale=-1", "has to be positive"),
        ("--output_dir=", "received an empty name"),
        ("stray", "Expected flags only"),
    ],
    "experiments/posterior_vae.py": [
        (f"{OUT} --posterior=tree", "<chain|k_subset|categorical>"),
        (f"{OUT} --posterior=k_subset --subset=10", "Expected --subset below the 10 --num"),
        (f"{OUT} --num_variables=1", "num_variables"),
        (f"{OUT} --k=1", "k=1"),
        (f"{OUT} --num_candidates=1", "num_candidates"),
        (f"{OUT} --epsilon=0", "has to be positive"),
    ],
    "experiments/reinmax_vae.py": [
        ("", "output_dir"),
        ("--output_dir=", "received an empty name"),
        (f"--output_dir={HERE}/results", "which holds history.csv, but no flags.txt"),
        (f"{OUT} --k=1", "k=1"),
        (f"{OUT} --estimator=magic", "Expected `estimator` to be one of"),
        (f"{OUT} --set=a", "Expected --set of name=value"),
        (f"{OUT} --set=seed=3,num_samples=2", "Please give --seed."),
        (f"{OUT} --optimizer=sgd", "<adam|radam>"),
        (f"{OUT} --seed={2**40}", "seed"),
        (f"{OUT} --learning_rate=nan", "finite number"),
        (f"{OUT} --dataset=mnist", "Expected no --dataset where the images are the paper's"),
        (f"{OUT} --data_dir=/nowhere", "Expected the data set 'mnist'"),
    ],
    "experiments/epsilon_bias.py": [
        ("", "Expected --output_dir, the folder of the table"),
        (f"--output_dir={HERE}/file", "Expected --output_dir to be a folder"),
        (f"{OUT} --draws=1", "draws"),
        (f"{OUT} --scale=nan", "scale"),
    ],
    "experiments/polynomial_toy.py": [
        ("", "Expected --output_dir, the folder of the table"),
        (f"--output_dir={HERE}/file", "Expected --output_dir to be a folder"),
        (f"{OUT} --estimators=magic", "Expected --estimators of"),
    ],
    "benchmarks/step_growth.py": [
        ("--num_variables=0", "Expected integers of at least 1 in --num_variables"),
        ("--num_categories=1", "Expected integers of at least 2 in --num_categories"),
        ("--estimators=direct", "Expected gumbel_softmax among --estimators"),
        ("--estimators=direct/x,gumbel_softmax", "Expected name or name/m in --estimators"),
        ("--estimators=magic,gumbel_softmax", "Expected `estimator` to be one of"),
    ],
    "benchmarks/candidates_growth.py": [
        ("--posteriors=tree/3", "Expected kind/size in --posteriors"),
        ("--posteriors=chain", "Expected kind/size in --posteriors"),
        ("--posteriors=k_subset/1", "num_variables"),
        ("--posteriors=", "Expected at least one entry in --posteriors"),
        ("--estimators=exact/8", "Expected M or plain/M in --estimators"),
        ("--estimators=1", "num_candidates"),
        ("--repeats=0", "repeats"),
    ],
    "benchmarks/mixed_precision.py": [
        ("--models=magic", "Expected --models of discrete"),
        ("--likelihoods=", "Expected at least one entry in --likelihoods"),
        ("--epochs=0", "epochs"),
    ],
    "benchmarks/decision_step.py": [
        ("--methods=magic", "Expected --methods of direct"),
        ("--sizes=1", "Expected integers of at least 2 in --sizes"),
        ("--batches=0", "Expected integers of at least 1 in --batches"),
        ("--steps=0", "steps"),
        ("--repeats=0", "repeats"),
    ],
    "benchmarks/first_step.py": [
        ("--k=1", "k=1"),
        ("--dataset=cifar", "dataset"),
        ("--steps_per_execution=3", "Expected --steps_per_execution to divide the 14"),
    ],
    "benchmarks/em_limit.py": [
        ("--num_categories=x", "Expected integers of at least 1 in --num_categories"),
        ("--dataset=cifar", "dataset"),
        ("--dataset=mnist --data_dir=/nowhere", "Expected the data set 'mnist'"),
        ("--iterations=0", "iterations"),
        ("stray", "Expected flags only"),
    ],
    "benchmarks/epoch_seconds.py": [
        ("--num_categories=1", "Expected integers of at least 2 in --num_categories"),
        ("--num_images=50", "Expected --batch_size of at most the 50 --num_images"),
        ("--estimator=magic", "Expected `estimator` to be one of"),
        ("--epochs=0", "epochs"),
        ("--batch_size=0", "batch_size"),
    ],
    "benchmarks/workers_seconds.py": [
        ("--workers=1", "Expected integers of at least 2 in --workers"),
        ("--batch_sizes=x", "Expected integers of at least 1 in --batch_sizes"),
        ("--epochs=1", "epochs"),
        ("--dataset=cifar", "Expected"),
    ],
    "benchmarks/structured_step.py": [
        ("--n=0", "Expected integers of at least 1 in --n"),
        ("--solver=magic", "solver"),
        ("--structure=tree", "structure"),
        ("--perturbation=magic", "perturbation"),
        ("--steps=0", "steps"),
    ],
    "benchmarks/argmax_seconds.py": [
        ("--solvers=magic", "Expected --solvers of enumerate"),
        ("--ns=x", "Expected integers of at least 0 in --ns"),
        ("--ns=30", "Expected --ns of at most 20"),
        ("--repeats=0", "repeats"),
    ],
    "benchmarks/perturbation_law.py": [
        ("--n=x", "Expected integers of at least 1 in --n"),
        ("--n=30", "Expected --n of at most 15"),
        ("--scales=x", "Expected finite numbers in --scales"),
        ("--scales=nan", "Expected finite numbers in --scales"),
        ("--draws=0", "draws"),
    ],
}

TABLE = (
    "dataset,num_variables,k,estimator,seed,epoch,cpu_seconds,decoder_evaluations,negative_elbo,"
    "bound,kl_weight,epsilon,temperature\ndigits,1,3,direct,1,1,0.1,1,30,29,1,1,\n"
)


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """The files that the command lines name; they have to be there, unchanged, at the end."""
    folder = tmp_path_factory.mktemp("here")
    info = folder / "tfds/mnist/3.0.1"
    for name in ("results", "run", "damaged", "checkpoints_is_a_file", "history_is_a_folder"):
        (folder / name).mkdir()
    info.mkdir(parents=True)
    (folder / "history_is_a_folder/history.csv").mkdir()
    contents = {
        "file": "mine", "results/history.csv": "mine", "run/flags.txt": "--k=77\n",
        "checkpoints_is_a_file/checkpoints": "mine", "other.csv": "a,b\n1,2\n",
        "table.csv": TABLE, "cut.csv": TABLE[:-30],
        "tfds/mnist/3.0.1/dataset_info.json": '{"splits": [',
    }  # fmt: skip
    for name, text in contents.items():
        (folder / name).write_text(text)
    (folder / "damaged/flags.txt").write_bytes(b"--k=\xff\xfe")
    (folder / "latin1.flags").write_bytes(b"--dataset=\xe4\xf6\n")
    before = state_of(folder)
    yield folder
    assert state_of(folder) == before


def state_of(folder):
    return {str(path): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def test_there_are_enough():
    assert sum(map(len, LINES.values())) >= 150


@pytest.mark.parametrize("program", LINES)
def test_bad_command_lines(program, here):
    lines = [line.replace(HERE, str(here)).split() for line, _ in LINES[program]]
    answers = programs.refusals(program, lines)
    faults = []
    for (line, message), (code, out, err, left) in zip(LINES[program], answers, strict=True):
        (said, *more) = err.splitlines() or [""]
        if not (
            code != 0 and out == "" and left == [] and not more and message in said
            and said.startswith("error: Expected") and "received" in said
        ):  # fmt: skip
            faults.append((line, message, code, out, err, left))
    assert not faults, json.dumps(faults, indent=1)


def test_the_folder_of_a_result_has_none_yet(tmp_path):
    assert command_line.make_folder(str(tmp_path / "a"), ["result.json"]) == tmp_path / "a"
    (tmp_path / "a/result.json").write_text("mine")
    with pytest.raises(ValueError, match=r"Expected a new --output_dir; .* holds result\.json"):
        command_line.make_folder(str(tmp_path / "a"), ["result.json"])


def test_another_backend_of_keras():
    code, _, err = programs.run(
        "examples/train_vae.py", prelude="import os; os.environ['KERAS_BACKEND'] = 'torch'"
    )
    assert code == 1
    assert_one_line(err, "Expected Keras on TensorFlow; received KERAS_BACKEND=torch. Please unset")


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            tf.errors.ResourceExhaustedError(None, None, "x.v2; No space left on device"),
            "received: No space left on device. Please free some space.",
        ),
        (
            tf.errors.ResourceExhaustedError(None, None, "OOM when"),
            "that fit into memory; received",
        ),
        (
            tf.errors.InvalidArgumentError(None, None, "failed: [Expected finite costs] [Cond"),
            "training diverged. The last finite checkpoint, where there is one, is kept;",
        ),
        (
            tf.errors.InvalidArgumentError(None, None, "failed: [Expected images k / 255] [Cond"),
            "error: Expected images k / 255",
        ),
    ],
)
def test_errors_of_tensorflow_that_a_user_can_mend(error, line):
    with pytest.raises(SystemExit) as found, command_line.one_line_errors():
        raise error
    assert line in str(found.value)
    assert "Cond" not in str(found.value)


def test_faults_of_the_program_are_tracebacks():
    error = tf.errors.InvalidArgumentError(None, None, "shapes do not agree")
    with pytest.raises(tf.errors.InvalidArgumentError), command_line.one_line_errors():
        raise error
