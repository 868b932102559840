"""Short questions of the kind that people put to an assistant: tasks, each about any of the subjects.

There are more of them than a cell asks. One that came again would be answered by the same words again,
and an n-gram drafter that remembers its answers would guess them all: that is no longer chat.
"""

from typing import Final

TASKS: Final[tuple[str, ...]] = (
    "Explain {subject} in a few sentences to somebody who has never heard of it.",
    "What should I know about {subject} before I spend money on it?",
    "Write a short, friendly note to a neighbour about {subject}.",
    "Give me three ideas for a talk about {subject}.",
    "Tell me a short story in which {subject} changes somebody's day.",
    "Which questions do beginners ask about {subject}, and what are the answers?",
    "Write four lines of verse about {subject}.",
    "What are the most common mistakes with {subject}?",
    "How did people live before there was {subject}?",
    "Plan a quiet afternoon that has something to do with {subject}.",
    "Describe {subject} as a child would describe it.",
    "What could {subject} look like in fifty years?",
    "My friend says that {subject} is a waste of time. What can I answer?",
    "Write a product description in which {subject} plays a part.",
    "List the steps I would take to learn more about {subject}.",
    "Why do some people love {subject} and others not at all?",
    "Compare {subject} with something that most people know well.",
    "Write a polite letter that complains about {subject}.",
    "Which tools or things do I need for {subject}?",
    "Summarise the history of {subject} in a short paragraph.",
)

SUBJECTS: Final[tuple[str, ...]] = (
    "a canal lock", "a thermos flask", "compound interest", "leap years", "sourdough bread", "river birds",
    "night trains", "a database index", "houseplants in winter", "the rules of chess", "wood stoves",
    "beekeeping", "bicycle brakes", "public libraries", "ice skating", "learning a language",
    "a lighthouse", "weather forecasts", "running at fifty", "packing for a journey", "old maps",
    "fishing with nets", "a vegetable garden", "clockmaking", "street markets", "the night sky",
    "glass windows", "school holidays", "a village choir", "paper letters", "repairing shoes",
    "cheese from goats", "mountain huts", "ferries", "a good password", "rainwater tanks",
    "wool and knitting", "first aid", "telling jokes", "a kitchen knife", "apple trees",
    "an index of books", "tea", "walking to work", "keeping a diary", "ropes and knots", "board games",
    "the price of salt", "singing in a car", "a wooden chair",
)  # fmt: skip
