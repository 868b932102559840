"""Tasks whose answer repeats most of the prompt: where drafting from the prompt itself pays.

Every text is new: some of the sentences, in an order of its own.
"""

from typing import Final

INSTRUCTIONS: Final[tuple[str, ...]] = (
    "Repeat the following text exactly, word for word, and write nothing else:\n\n{passage}",
    "Copy this text without changing anything:\n\n{passage}",
    "Write the text below once more, keeping every word and every line:\n\n{passage}",
    "Return this text unchanged, then stop:\n\n{passage}",
)

SENTENCES_OF_A_TEXT: Final = 6

SENTENCES: Final[tuple[str, ...]] = (
    "The ferry leaves the north pier at seven in the morning and returns at nine in the evening.",
    "Tickets are sold in the blue hut beside the pier.",
    "Children under six travel free of charge.",
    "Dogs must be kept on a lead.",
    "Bicycles are carried on the lower deck, where there is room for twelve of them.",
    "In bad weather the ferry does not sail, and tickets may be used on another day.",
    "The crossing takes forty minutes.",
    "Maria keeps the accounts of the bakery in a green book.",
    "On the left page she writes what was bought: flour, butter, salt, yeast and wood for the oven.",
    "On the right page she writes what was sold: rolls, loaves, cakes and tea.",
    "At the end of each week she adds both pages and subtracts the left from the right.",
    "If the result is larger than it was the week before, she puts a small star beside it.",
    "Dear members, the reading room will be closed on Friday because the roof is being repaired.",
    "Books that are due on Friday may be returned on Monday without a fee.",
    "The evening lecture about river birds will take place in the town hall instead, at the usual time.",
    "Please bring your membership card, because the porter of the town hall does not know you.",
    "We thank you for your patience and hope to see you there.",
    "Step one: remove the four screws at the back of the case and keep them in a cup.",
    "Step two: lift the lid slowly, because a short cable connects it to the base.",
    "Step three: pull the cable out of its socket.",
    "Step four: take out the old fan and put in the new fan, with the label facing down.",
    "Step five: connect the cable, close the lid, and put the four screws back where they were.",
    "The garden has six beds.",
    "The first bed holds beans and peas.",
    "The second bed holds carrots, onions and leeks.",
    "The third bed holds potatoes.",
    "The fourth bed holds lettuce, spinach and rocket.",
    "The fifth bed holds strawberries, which stay there for three years.",
    "The sixth bed is left empty, so that its soil can rest.",
    "Each spring everything but the strawberries moves one bed further along.",
    "Old Tom walked to the well every morning with two buckets, one of tin and one of wood.",
    "The tin bucket was full of holes, and by the time he reached his door it was half empty.",
    "His neighbour asked him why he did not buy a new one.",
    "Tom pointed to the path behind him.",
    "On one side of it nothing grew.",
    "On the other side, where the tin bucket dripped, there was a long line of flowers.",
    "Minutes of the meeting: the treasurer reported that the club has two hundred and ten members.",
    "The secretary reported that the new boat has arrived and has been painted.",
    "The club will hold a race on the first Sunday of June.",
    "Every boat needs a crew of three.",
    "Anna, Peter and Ruth will mark the course.",
    "The kitchen will serve soup and bread.",
    "The next meeting will be held on the last Tuesday of May.",
    "A storm passed over the valley in the night.",
    "It took the roof off the old mill and laid it, whole, in the field on the other side of the river.",
    "In the morning the miller stood in his kitchen and looked up at the clouds.",
    "His wife asked whether he was angry.",
    "He said that he had wanted more light in the kitchen for twenty years.",
    "The museum shows clocks from four centuries.",
    "In the first room are clocks with one hand, which show only the hour.",
    "In the second room are clocks with a pendulum, which lose less than a minute in a day.",
    "In the third room are clocks made for ships, which keep time while everything around them moves.",
    "In the fourth room is a clock that nobody has wound since the day on which its maker died.",
)
