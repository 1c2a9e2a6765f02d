"""What every distribution over configurations can be asked.

A posterior is made from the parameters [B, ...] of a batch, so that what one enumeration or one
forward pass yields is computed once and asked for many times. It knows closed forms and exact
draws; no estimator, no decoder. `tests/posterior_contract.py` asks all of them the same questions
by enumeration; `ClassGaussian`, half of which is no code, has tests of its own.
"""

import abc
import dataclasses
import inspect
import math
from typing import Any, ClassVar

import numpy as np
import tensorflow as tf

from tf_direct_opt import solvers


class Posterior(abc.ABC):
    """A distribution over the configurations of N variables with K categories each.

        q(z) = exp(h . s(z) - log Z)

    with parameters h, nats, and the sufficient statistics s. Configurations are codes, one-hots
    [..., N, K]; of binary variables K = 2 (`binary.one_hot`). A subclass gives `parameter_shape`
    and the quantities below; where the numbering of configurations is not that of N digits to base
    K, the last one the fastest, it also gives `num_configurations`, `configurations` and `index`.

    Attributes:
        parameters: [B, *parameter_shape] as they were given: gradients go to this tensor.
        num_variables: N.
        num_categories: K.
    """

    parameter_name: ClassVar[str] = "logits"
    """What the parameters are called where results are reported by name."""

    parameters: tf.Tensor
    num_variables: int
    num_categories: int

    @abc.abstractmethod
    def __init__(self, parameters: tf.Tensor, **config):
        """Made of the parameters of a batch, [B, *parameter_shape]."""

    @classmethod
    @abc.abstractmethod
    def parameter_shape(cls, *args: Any, **config: Any) -> tuple[int, ...]:
        """Shape of one example's parameters, for the arguments that follow the parameters."""

    @abc.abstractmethod
    def mode(self) -> tf.Tensor:
        """The most probable configuration: codes [B, N, K]. No gradient passes."""

    @abc.abstractmethod
    def sample(self, count: int, seed: tf.Tensor) -> tf.Tensor:
        """`count` exact, independent draws: codes [B, count, N, K]. No gradient passes."""

    @abc.abstractmethod
    def gumbel_top_k(self, count: int, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """The best configurations under an independent zero-mean Gumbel for each of them.

        The first is an exact draw of q (Gumbel-Max), the others follow it in a draw without
        replacement.

        Args:
            count: M, at most the number of configurations.
            seed: [2] integers; the same seed gives the same draws.

        Returns:
            Perturbed scores h . s(z) + Gumbel [B, M], descending, and codes [B, M, N, K]. No
            gradient passes.

        References:
            Kool, van Hoof, Welling, "Stochastic beams and where to find them", ICML 2019; Maddison,
            Tarlow, Minka, "A* sampling", NeurIPS 2014.
        """

    @abc.abstractmethod
    def score(
        self,
        codes: tf.Tensor,  # [B or 1, S, N, K]
    ) -> tf.Tensor:
        """h . s(z), the unnormalised log-probability, nats: [B, S]; differentiable."""

    @abc.abstractmethod
    def log_partition(self) -> tf.Tensor:
        """log Z = log sum_z exp(h . s(z)), nats: [B]; differentiable."""

    @abc.abstractmethod
    def marginals(self) -> tf.Tensor:
        """q(z_i = k): [B, N, K]. No gradient is promised."""

    @abc.abstractmethod
    def kl_to_uniform(self) -> tf.Tensor:
        """KL(q || uniform over the configurations), nats: [B]; differentiable."""

    def log_prob(
        self,
        codes: tf.Tensor,  # [B or 1, S, N, K]
    ) -> tf.Tensor:
        """log q(z), nats: [B, S]; differentiable.

        Raises:
            ValueError: codes of another rank, such as [B, N, K] of `mode`; a `score` or
                `log_partition` of one's own of another shape, which would be broadcast.
        """
        check_codes(codes)
        score, log_partition = self.score(codes), self.log_partition()
        name = type(self).__name__
        _check_rank(score, 2, f"`score` of {name} to be [B, S], one number a code")
        _check_rank(log_partition, 1, f"`log_partition` of {name} to be [B], one number an example")
        return score - log_partition[:, tf.newaxis]

    def entropy(self) -> tf.Tensor:
        """-E_q log q(z), nats: [B]; differentiable."""
        return math.log(self.num_configurations) - self.kl_to_uniform()

    @property
    def num_configurations(self) -> int:
        """How many configurations there are."""
        return self.num_categories**self.num_variables

    def configurations(
        self,
        index: tf.Tensor,  # [M] int
    ) -> tf.Tensor:
        """The codes [M, N, K] of numbers from 0 to `num_configurations` - 1."""
        self._check_numbers(index.dtype)
        powers = self.num_categories ** tf.range(self.num_variables - 1, -1, -1, index.dtype)
        digits = index[:, tf.newaxis] // powers % self.num_categories
        return tf.one_hot(digits, self.num_categories)

    def index(
        self,
        codes: tf.Tensor,  # [..., N, K]
    ) -> tf.Tensor:
        """The numbers of configurations: int32 [...]."""
        self._check_numbers(tf.int32)
        powers = self.num_categories ** tf.range(self.num_variables - 1, -1, -1)
        return tf.reduce_sum(tf.argmax(codes, axis=-1, output_type=tf.int32) * powers, axis=-1)

    def _check_numbers(self, dtype):
        """ValueError where a number of a configuration does not fit into the dtype."""
        if self.num_configurations - 1 > dtype.max:
            raise ValueError(
                f"Expected at most {dtype.max} configurations to have a number in {dtype.name}; "
                f"received {self.num_configurations:.3g}. Please compare the codes themselves, or "
                "give int64 numbers."
            )

    def _check_top(self, count):
        """ValueError where fewer configurations than that can be drawn without replacement."""
        if not 1 <= count <= self.num_configurations:
            raise ValueError(
                f"Expected `count` from 1 to the {self.num_configurations} configurations; "
                f"received {count}. Please draw fewer."
            )

    def probabilities(self) -> tf.Tensor:
        """q of every configuration, in the order of their numbers: [B, num_configurations]."""
        return tf.nn.softmax(
            self.score(self.configurations(tf.range(self.num_configurations))[None])
        )


def check_codes(codes) -> None:
    """ValueError for codes that are not S an example."""
    if tf.TensorShape(codes.shape).rank not in (4, None):
        raise ValueError(
            f"Expected codes [B, S, N, K], S an example; received shape {tuple(codes.shape)}. For "
            "one an example please give codes[:, tf.newaxis]."
        )


def _check_rank(values, rank, what) -> None:
    if values.shape.rank not in (rank, None):
        raise ValueError(f"Expected {what}; received shape {values.shape}. Please squeeze it.")


# The classes by the names under which they are saved; `posteriors.register` adds to them.
REGISTRY: dict[str, type] = {}


@dataclasses.dataclass(frozen=True, eq=False)
class Family:
    """A posterior without its parameters: what a model or an estimator keeps of it.

    Args:
        name: under which it is registered.
        kind: the class.
        config: its arguments after the parameters.
    """

    name: str
    kind: type[Posterior]
    config: dict[str, Any]

    @property
    def parameter_shape(self) -> tuple[int, ...]:
        return self.kind.parameter_shape(**self.config)

    @property
    def num_variables(self) -> int:
        return self._size("num_variables")

    @property
    def num_categories(self) -> int:
        return self._size("num_categories")

    def _size(self, name: str) -> int:
        size = self.config.get(name) or getattr(self.kind, name, None)
        if not isinstance(size, int | np.integer):
            raise ValueError(
                f"Expected `{name}` among the arguments of {self.kind.__name__}, or as an "
                f"attribute of the class; received {size!r}. Please set it there."
            )
        return int(size)

    def __call__(
        self,
        parameters: tf.Tensor,  # [B, *parameter_shape]
    ) -> Posterior:
        return self.kind(parameters, **self.config)

    def check_shape(self, shape) -> None:
        """ValueError unless a batch of parameters of that shape belongs to the family."""
        check_shape(shape, self.parameter_shape, self.kind.__name__)

    def get_config(self) -> dict:
        """What `posteriors.get` makes the same family from, fit for JSON.

        Raises:
            ValueError: its solver is a callable of one's own without a name, or the name is not
                that of its class in the registry, and another one would be loaded.
        """
        if REGISTRY.get(self.name) is not self.kind:
            raise ValueError(
                f"Expected a registered posterior in a model that is saved; received "
                f"{self.kind.__name__} as {self.name!r}. Please call posteriors.register"
                f"({self.name!r}, {self.kind.__name__}) with a name of its own, here and where it "
                "is loaded."
            )
        config = self._described()
        if callable(config.get("solver")):
            raise ValueError(
                f"Expected a solver with a name in a posterior that is saved; received "
                f"{config['solver']}. Please give it one by solvers.register."
            )
        return {"name": self.name, "config": config}

    def __eq__(self, other):
        if not isinstance(other, Family):
            return NotImplemented
        return (self.kind, self._completed()) == (other.kind, other._completed())

    def __hash__(self):
        return hash(self.kind)

    def _completed(self):
        """The arguments, those that were left out too."""
        # What decides the shape last: there a default is what it stands for.
        taken = [
            parameter
            for function in (self.kind, self.kind.parameter_shape)
            for parameter in inspect.signature(function).parameters.values()
        ]
        left_out = {p.name: p.default for p in taken if p.default is not p.empty}
        return {**left_out, **self._described()}

    def _described(self):
        """The arguments, a solver by its name and arguments where it has them."""
        solver = self.config.get("solver")
        if solver is None:
            return dict(self.config)
        return {**self.config, "solver": solvers.serialize(solver) or solver}


def check_shape(shape, expected: tuple[int, ...], what: str) -> None:
    """ValueError unless the shape is [B, *expected]."""
    if len(shape) != len(expected) + 1 or tuple(shape[1:]) != expected:
        raise ValueError(
            f"Expected parameters [{', '.join(['B', *map(str, expected)])}] of {what}; received "
            f"shape {tuple(shape)}. Please reshape them, or give another size."
        )
