"""Which channels of a network are coupled, read off the tapes of its forward passes, one rule per kind of operation.

The rules are in ``products.py`` (convolutions, matrix products), ``reductions.py`` (norms, sums, softmax) and
``layouts.py`` (views, slices, concatenations, new tensors); what only moves data is in ``axes.py``.
"""

from __future__ import annotations

from slimtask.compress.graph import layouts, products, reductions
from slimtask.compress.graph.coupler import RULES, Coupler, Coupling
from slimtask.compress.graph.labels import Labels, Layers
from slimtask.compress.network.tape import Tape

assert RULES, (layouts, products, reductions)  # the rules enter themselves when their modules are read


def couple(*tapes: Tape) -> Coupling:
    """Return the Coupling of every parameter of the traced network, with all ties and pins its operations imply.

    Several tapes of one network, e.g. in evaluation and in training, are tied together by its parameters.
    """
    coupling, leaves = Coupling(labels=Labels(), tapes=tapes), dict[str, Layers]()
    for index, tape in enumerate(tapes):
        coupler = Coupler(index, tape, coupling, leaves)
        coupler.run()
        for site in tape.sites:
            if site.kind == "like" and site.source is not None and site.arguments:
                coupler.alike(site.outputs[0], site.arguments[0])
        coupling.values.append(coupler.values)
    coupling.labels.tie_products()
    coupling.classes = coupling.labels.classes()
    return coupling
