"""Floating-point operations of the engine's products and decompositions, from shapes alone.

A product of an n×k and a k×m matrix is 2nkm operations. Element by element work is left out: it is a small share, and
what it takes is part of the efficiency of the hardware (`compute/hardware.py`). A routed expert is given its share of
the tokens; where documents are kept apart, padded to the most that one of a batch has. T tokens of a
sequence, I inputs (with the bias column) and O outputs of a module, `blocks` diagonal blocks that its A and S are cut
into.
"""

from __future__ import annotations

import math
from functools import cache

from compute.architecture import Architecture, LinearModule
from compute.covariances import COLUMNS_AT_ONCE

EIGH = 9  # n³ operations of a symmetric decomposition with vectors: Golub and Van Loan 2013, section 8.3


def forward(model: Architecture, tokens: float) -> float:
    """One sequence without the head: 2 per weight and token; attention's QKᵀ and PV are 2T² per unit of width each.

    Attention is counted whole, as kernels without a mask compute it; those that skip what is masked take half.
    """
    linear = sum(each.weights_per_token for each in model.linears)
    return 2 * tokens * linear + 4 * tokens**2 * model.attention_layers * model.attention_width


def backward(model: Architecture, tokens: float) -> float:
    """Gradients of activations alone, down to the lowest tracked module: as much as forward for each module that they
    go through, twice as much for attention (Q, K, V and its weights). `method.md`, *Cost*: with frozen weights 1 F."""
    return 2 * tokens * _weights_above(model) + 8 * tokens**2 * _attention_above(model)


def tangent(model: Architecture, tokens: float) -> float:
    """How the outputs move along a vector of the tracked modules' parameters, beside forward itself: that vector's
    products with their inputs, and above the lowest of them as much as forward: of attention, whose inputs both move,
    twice as much."""
    above = 2 * tokens * _weights_above(model) + 8 * tokens**2 * _attention_above(model)
    return gradients(model, tokens) + above


def gradients(model: Architecture, tokens: float) -> float:
    """The gradients of all tracked modules, formed; a vector's products with their inputs take as much."""
    return sum(2 * tokens * each.module.token_share * entries(each) for each in model.tracked)


def head(model: Architecture, targets: float) -> float:
    """Logits of the positions that predict a token with loss; as much again for the gradient of the head's input."""
    return 2 * targets * model.head_weights


def training_pass(model: Architecture, tokens: float) -> float:
    """One sequence, forward and full backward with the gradients of weights; no optimizer."""
    linear = sum(each.weights_per_token for each in model.linears) + model.head_weights
    return 6 * tokens * linear + 12 * tokens**2 * model.attention_layers * model.attention_width


def covariance(linear: LinearModule, blocks: int = 1) -> float:
    """Per token, the upper triangles of S, and of A once for modules that share it (`covariances.add_products`)."""
    of_inputs = 0 if linear.shares_input else _triangle(linear.module.in_features // blocks)
    return linear.module.token_share * blocks * (_triangle(linear.module.out_features // blocks) + of_inputs)


def decomposed_sides(linear: LinearModule) -> list[int]:
    """Sides of the matrices that are decomposed: S, and A once for modules that share it."""
    outputs, inputs = sides(linear)
    return [outputs] if linear.shares_input else [outputs, inputs]


def turn(linear: LinearModule, blocks: int = 1) -> float:
    """A gradient into the eigenbasis, or back: Q_Sᵀ G Q_A."""
    outputs, inputs = sides(linear)
    return 2 * outputs * inputs * (outputs + inputs) / blocks


def columns(linear: LinearModule, tokens: int, documents: int) -> float:
    """Of each document, where those of a batch are kept apart: all its tokens, or as many as are expected to reach a
    routed expert of the document that has the most of them, if tokens choose independently of each other."""
    share = linear.module.token_share
    return tokens if share == 1 else most_chosen(tokens, share, documents)


@cache
def most_chosen(tokens: int, share: float, documents: int) -> float:
    """The mean of the largest of so many binomial counts: the sum of the chances that it is above 0, 1, …"""
    mean, below, total = tokens * share, 0.0, 0.0
    for count in range(tokens):
        ways = math.lgamma(tokens + 1) - math.lgamma(count + 1) - math.lgamma(tokens - count + 1)
        below += math.exp(ways + count * math.log(share) + (tokens - count) * math.log1p(-share))
        above = 1 - min(1.0, below) ** documents
        if count > mean and above < 1e-9:
            break
        total += above
    return total


def rotated_gradient(linear: LinearModule, tokens: float, blocks: int = 1) -> float:
    """A document's gradient in the eigenbasis, of so many of its tokens: formed and turned, or formed of turned tokens,
    whichever is less (`eigenvalues.rotated_gradients`)."""
    outputs, inputs = sides(linear)
    turned_tokens = 2 * tokens * (outputs**2 + inputs**2) / blocks
    return 2 * tokens * entries(linear) + min(turn(linear, blocks), turned_tokens)


def _weights_above(model: Architecture) -> float:
    """Per token, of the modules whose input depends on a tracked module."""
    return sum(each.weights_per_token for each in model.linears if each.backward)


def _attention_above(model: Architecture) -> float:
    return model.attention_layers_backward * model.attention_width


def sides(linear: LinearModule) -> tuple[int, int]:
    """O and I."""
    return linear.module.out_features, linear.module.in_dim


def entries(linear: LinearModule) -> int:
    outputs, inputs = sides(linear)
    return outputs * inputs


def _triangle(side: int) -> float:
    """Rows of blocks, each from its diagonal on: about N² per token instead of 2N²."""
    return sum(2 * min(COLUMNS_AT_ONCE, side - start) * (side - start) for start in range(0, side, COLUMNS_AT_ONCE))
