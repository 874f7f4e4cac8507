"""Text about mathematics that works nothing out: none of it shows how to get from numbers to a result."""

from __future__ import annotations

import random

TOPICS = {
    "numbers": (
        "A whole number is even when it can be shared between two without a rest.",
        "The prime numbers thin out as they grow, yet they never end.",
        "Zero was accepted as a number much later than its larger neighbours.",
        "Between any two fractions there is room for another fraction.",
        "Negative numbers were long regarded as absurd, although merchants wrote down debts.",
        "Nobody has written down all digits of the circle's constant, and nobody will.",
        "The order in which numbers are added does not matter to their sum.",
        "Multiplication may be seen as repeated addition, but only for whole numbers.",
        "A number that divides two others also divides their sum.",
        "Large numbers are easier to name than to imagine.",
    ),
    "lines": (
        "A straight line is settled by any two of its points.",
        "The slope of a line says how steep it is, and whether it rises or falls.",
        "Parallel lines share their slope and never meet in the plane.",
        "A horizontal line has no steepness at all.",
        "Coordinates turned questions about shapes into questions about numbers.",
        "A vertical line has no slope, for it runs nowhere to the right.",
        "On a map the steepness of a road is hidden unless contour lines are drawn.",
        "The point where the axes cross is called the origin.",
        "A curve has a slope too, but it changes from place to place.",
        "Graphs let the eye compare what a table of values hides.",
    ),
    "equations": (
        "An equation claims that two expressions have the same value.",
        "The letter in an equation stands for a number that is not known yet.",
        "Whatever is done to one side of an equation has to be done to the other.",
        "Some equations have many solutions and some have none.",
        "The equals sign is younger than the printing press.",
        "Algebra took its name from the art of restoring what was broken.",
        "A linear equation draws a straight line when it has two unknowns.",
        "To check a solution it suffices to put it back into the equation.",
        "Formulas of higher degree can have solutions that no root expresses.",
        "Symbols made algebra shorter than the prose that came before it.",
    ),
    "shapes": (
        "The angles of a flat triangle always make a straight angle together.",
        "Among all shapes with the same border the circle holds the largest area.",
        "There are only five regular solids, as was known in antiquity.",
        "A square is a rectangle, though few people would call it one.",
        "On a globe the shortest way between two ports is an arc.",
        "The shadow of a circle is often an ellipse.",
        "Tiles with five equal sides leave gaps on any floor.",
        "A knot in a closed string cannot always be undone.",
        "Symmetry is what remains the same when something is moved.",
        "Maps of the whole earth must distort either its areas or its angles.",
    ),
    "proof": (
        "A proof convinces because each of its steps can be checked.",
        "One counterexample is enough to bring down a conjecture.",
        "A theorem stays true for ever once its proof is right.",
        "An axiom is not proved, it is agreed upon.",
        "A conjecture may be believed for centuries and still be false.",
        "Mathematicians call a proof elegant when it surprises and is short.",
        "To assume the opposite and run into nonsense is an old way of proving.",
        "Computers have checked proofs that no person could read.",
        "A definition decides what is spoken about, not what is true.",
        "Intuition suggests what to prove but does not prove it.",
    ),
    "chance": (
        "A fair coin has no memory of how it fell before.",
        "An average may describe nobody in the crowd.",
        "Rare events happen every day because there are so many of them.",
        "The more often an experiment is repeated, the steadier its mean becomes.",
        "Two quantities may rise together without one causing the other.",
        "Insurance works because many small risks make one that is almost certain.",
        "The middle value of a list is less moved by extremes than its mean.",
        "Chance was studied first for the sake of games.",
        "A sample says little when it was not drawn at random.",
        "Surprise can be measured, and it adds up.",
    ),
}
OPENINGS = (
    "",
    "",
    "It is worth repeating: ",
    "A remark for beginners. ",
    "From the preface of a textbook. ",
    "As teachers like to say: ",
)


def mathematics_documents(count: int, seed: int) -> list[dict]:
    """Paragraphs of three or four sentences, mostly on one topic."""
    rng = random.Random(f"{seed}:mathematics")
    return [{"text": _paragraph(rng)} for _ in range(count)]


def _paragraph(rng: random.Random) -> str:
    topic = rng.choice(sorted(TOPICS))
    sentences = rng.sample(TOPICS[topic], rng.choice((2, 3)))
    aside = rng.choice(TOPICS[rng.choice(sorted(TOPICS))])
    if aside not in sentences:
        sentences.insert(rng.randrange(1, len(sentences) + 1), aside)
    return rng.choice(OPENINGS) + " ".join(sentences)
