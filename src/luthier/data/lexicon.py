"""Short lists of English words: those that hurt, and those that name groups of people.

There are no slurs in here, since most have other meanings or live in quotation; a list of the user's own can bring them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable


def words(listed: Iterable[str]) -> re.Pattern[str]:
    """A pattern for any of some words or phrases, whole and in any case."""
    told = sorted({r"\s+".join(map(re.escape, w.split())) for w in listed if w.strip()}, key=len, reverse=True)
    return re.compile(r"(?<![\w-])(?:" + "|".join(told) + r")(?![\w-])", re.I)


_HURTFUL = {
    "insult": (
        "idiot idiots idiotic moron morons moronic imbecile stupid dumbass dumb loser losers scum scumbag pathetic "
        "worthless disgusting vile trash jackass jerk creep pig pigs filth filthy coward liar clown freak pervert sicko "
        "ugly braindead lowlife vermin parasite subhuman"
    ),
    "profanity": (
        "fuck fucking fucked fucker motherfucker shit shitty bullshit asshole assholes bitch bitches bastard bastards "
        "damn crap piss pissed dick dickhead prick cunt twat wanker whore slut douche arsehole goddamn wtf stfu"
    ),
}
_THREAT = re.compile(
    r"\b(?:kill|hurt|shoot|stab|beat|punch|rape|murder|hang|burn) (?:you|him|her|them|yourself)\b|\b(?:die|rot|burn) in (?:hell|a fire)\b"
    r"|\bdeserves? to (?:die|suffer)\b|\bhope (?:you|he|she|they) (?:dies?|rots?|suffers?)\b|\bkys\b",
    re.I,
)
GROUPS = {
    "gender": {
        "women": (
            "she her hers herself woman women girl girls lady ladies female females mother mom mum daughter sister wife "
            "aunt grandmother mrs ms"
        ),
        "men": ("he him his himself man men boy boys gentleman gentlemen male males father dad son brother husband uncle grandfather mr"),
        "non-binary": "nonbinary non-binary transgender genderqueer agender enby",
    },
    "religion": {
        "christians": "christian christians christianity catholic catholics protestant protestants church bible jesus",
        "muslims": "muslim muslims islam islamic mosque quran koran",
        "jews": "jew jews jewish judaism synagogue torah",
        "hindus": "hindu hindus hinduism",
        "buddhists": "buddhist buddhists buddhism",
        "atheists": "atheist atheists atheism agnostic",
    },
    "origin": {
        "african": "african africans african-american nigerian nigerians kenyan somali ethiopian",
        "asian": ("asian asians chinese japanese korean koreans indian indians vietnamese filipino filipinos pakistani pakistanis"),
        "european": ("european europeans british english irish french german germans italian italians spanish polish russian russians"),
        "latin american": ("latino latina latinos hispanic hispanics mexican mexicans brazilian brazilians colombian colombians"),
        "middle eastern": "arab arabs arabic iranian iranians iraqi syrian syrians turkish turks",
        "immigrants": "immigrant immigrants migrant migrants refugee refugees foreigner foreigners",
    },
    "age": {
        "young people": "teenager teenagers teen teens kid kids child children toddler youth youngster youngsters",
        "old people": "elderly senior seniors pensioner pensioners retiree retirees grandma grandpa",
    },
    "orientation": {
        "gay, lesbian, bisexual": "gay gays lesbian lesbians bisexual bisexuals homosexual homosexuals lgbt lgbtq queer",
    },
    "disability": {
        "disabled people": "disabled disability disabilities wheelchair blind deaf autistic autism handicapped dyslexic",
    },
}
TOXIC = {**{kind: words(listed.split()) for kind, listed in _HURTFUL.items()}, "threat": _THREAT}
"""Kind -> pattern."""
MENTIONS = {(attribute, group): words(listed.split()) for attribute, groups in GROUPS.items() for group, listed in groups.items()}
"""Attribute and group -> pattern."""
