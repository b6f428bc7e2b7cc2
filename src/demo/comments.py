"""The raters' comments of the demo competition: a small grammar over brightness and colour, sharpness and mood.

A comment names the distortion and its strength, mostly also what the photo shows or its mood; an undistorted photo is
praised. One comment in fourteen is about something else.
"""

from dataclasses import dataclass

import numpy as np

# for a fault that is slight, clear or strong: before an adjective, and before a noun
_DEGREES = ("a little", "too", "far too")
_AMOUNTS = ("a bit of", "a lot of", "way too much")


@dataclass(frozen=True)
class Fault:
    """Paraphrases of one kind of distortion, and its effect at each level."""

    names: tuple[str, ...]
    effects: tuple[str, str, str]

    def name(self, index: int, level: int) -> str:
        """Paraphrase number `index` of the fault at a level of 0 (slight) to 2 (strong)."""
        return self.names[index % len(self.names)].format(degree=_DEGREES[level], amount=_AMOUNTS[level])


FAULTS = {
    "blur": Fault(
        ("the focus is {degree} soft", "it looks {degree} blurry to me"),
        ("the edges could be sharper", "many fine details are missing", "nothing at all is sharp"),
    ),
    "motion": Fault(
        ("there is {amount} motion blur", "i see {amount} camera shake"),
        ("a tripod would have helped", "the lines are smeared in one direction", "everything runs together in streaks"),
    ),
    "dark": Fault(
        ("the photo is {degree} dark", "it is {degree} underexposed for my taste"),
        ("the shadows need more light", "the shadows swallow the subject", "i can hardly see anything"),
    ),
    "bright": Fault(
        ("the light is {degree} bright", "this is {degree} overexposed"),
        ("watch the highlights", "the highlights are blown out", "the white areas are completely burned"),
    ),
    "flat": Fault(
        ("the image looks {degree} flat", "the tones are {degree} dull and hazy"),
        ("more contrast would give it pop", "it really lacks contrast", "a thick gray fog covers it all"),
    ),
    "faded": Fault(
        ("the colors are {degree} pale", "the saturation seems {degree} low"),
        ("richer colors would be nice", "it looks washed and tired", "almost a black and white photo"),
    ),
    "garish": Fault(
        ("the colors are {degree} saturated", "the saturation was pushed {degree} hard"),
        ("i would tone it down", "it does not look natural", "these loud colors hurt my eyes"),
    ),
    "yellow": Fault(
        ("the white balance is {degree} warm", "i notice {amount} yellow tint"),
        ("cooler tones would suit it", "an orange cast covers the scene", "everything has turned orange"),
    ),
    "blue": Fault(
        ("the white balance is {degree} cold", "i notice {amount} blue tint"),
        ("warmer tones would suit it", "a blue cast covers the scene", "everything has turned blue"),
    ),
    "green": Fault(
        ("the color balance is {degree} green", "i notice {amount} green tint"),
        ("a bit more red would suit it", "a green cast covers the scene", "everything has turned green"),
    ),
    "noise": Fault(
        ("there is {amount} noise", "this picture is {degree} grainy"),
        ("mostly seen in the smooth areas", "the grain covers the texture", "the grain hides everything else"),
    ),
    "banding": Fault(
        ("the gradients show {amount} banding", "the shades are {degree} posterized"),
        ("smooth areas break into steps", "i can count the steps of color", "it looks like a cheap poster"),
    ),
    "jpeg": Fault(
        ("i see {amount} compression artifacts", "the file is {degree} compressed"),
        ("small blocks show around the edges", "the blocks and jaggies distract me", "it has become big ugly squares"),
    ),
}
_OPENINGS = (
    ("lovely {noun} but", "nice {noun} but"),
    ("good idea, this {noun}, but", "interesting {noun} but"),
    ("sorry, a poor {noun},", "what a pity for this {noun},"),
)
_MOODS = (
    ("still a pleasant mood", "i like the calm mood"),
    ("it weakens the mood", "the mood suffers from it"),
    ("the mood is gone", "no mood is left"),
)
_PRAISE = (
    "excellent exposure and natural colors, a beautiful {noun}",
    "beautiful {noun}, very sharp with wonderful detail",
    "great light and crisp detail, i love the calm mood of this {noun}",
    "perfect focus and lovely colors, a very nice {noun}, well done",
)
_OFF_TOPIC = (
    "not sure about the composition of this {noun} but the idea is interesting",
    "i have seen this kind of {noun} before, it does not tell me much",
)
_OFF_TOPIC_SHARE = 0.07


def praise(noun: str, choice: int) -> str:
    """A comment on an undistorted photo of a `noun`."""
    return _PRAISE[choice % len(_PRAISE)].format(noun=noun)


def complaint(noun: str, faults: list[tuple[str, int]], form: int, wording: int) -> str:
    """A comment on `faults`, pairs of kind and level (0 to 2) with the worst first.

    form: 0 opens with the noun, 1 closes with the mood, 2 does neither; wording: which of two paraphrases.
    """
    kind, worst = faults[0]
    text = " and ".join(FAULTS[name].name(wording, level) for name, level in faults)
    if form == 1:
        return f"{text}, {_MOODS[worst][wording % 2]}"
    if form == 2 or len(faults) == 1:
        text = f"{text}, {FAULTS[kind].effects[worst]}"
    return f"{_OPENINGS[worst][wording % 2].format(noun=noun)} {text}" if form == 0 else text


def _comment(noun: str, faults: list[tuple[str, int]], rng: np.random.Generator) -> str:
    if rng.random() < _OFF_TOPIC_SHARE:
        if rng.random() < 0.5:
            return _OFF_TOPIC[rng.integers(len(_OFF_TOPIC))].format(noun=noun)
        return complaint(noun, [(str(rng.choice(sorted(FAULTS))), 0)], int(rng.integers(3)), int(rng.integers(2)))
    if not faults:
        return praise(noun, int(rng.integers(len(_PRAISE))))
    return complaint(noun, faults, int(rng.choice(3, p=[0.35, 0.25, 0.4])), int(rng.choice(2, p=[0.65, 0.35])))


def write_comments(noun: str, faults: list[tuple[str, int]], rng: np.random.Generator) -> tuple[str, ...]:
    """One to four different comments on a photo of a `noun` with these faults, worst first."""
    count = 1 + int(rng.choice(4, p=[0.5, 0.28, 0.14, 0.08]))
    comments: dict[str, None] = {}
    while len(comments) < count:
        comments[_comment(noun, faults, rng)] = None
    return tuple(comments)
