"""Losses and a metric for networks whose output a solver turns into a decision.

A network predicts the costs c^ of a problem, the solver decides z(c^) = argmin <c^, z>, and what
counts is the true cost <c, z(c^)> of that decision:

| trained by | model ends at | loss |
|---|---|---|
| the direct gradient of the cost of the decision | `PerturbedArgmax`, a decision | `DecisionLoss` |
| the Fenchel-Young loss of the best decision | predicted costs | `PerturbedFenchelYoung` |
| a convex bound of the regret | predicted costs | `SPOPlus` |

All of them, and the metric `Regret`, take the same targets, made once by `targets`: the true costs
and the best decision under them. They give one number an example, which a mask of time steps cannot
weigh, and refuse predictions that carry one (ValueError). The problem is one of least cost;
`minimize=False` makes it one of highest value, with values in the place of costs throughout.
"""

from tf_direct_opt.decisions.base import targets
from tf_direct_opt.decisions.losses import DecisionLoss, PerturbedFenchelYoung, SPOPlus
from tf_direct_opt.decisions.regret import Regret

__all__ = ["DecisionLoss", "PerturbedFenchelYoung", "Regret", "SPOPlus", "targets"]
