"""Labelled prompts that routers are measured on: the unseen half of our own set, and the picture world's questions.

Written for this project in the manner of the public benchmarks, wrapped in their templates as lmms-eval sends them. The
router's prototypes (:mod:`clasp.prototypes`) are the other half. A question belongs to the category of what must be
found to answer it: a property of a thing, a number of things, written text, a position or relation, the place, time or
weather; everything else (existence, actions, identity, knowledge, reasoning, description) is ``general``.

No prototype was made for an error on the unseen half. Some were made after errors on the world's questions, so that
set is not an unseen one. Torch-free.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from clasp.policy import CATEGORIES
from clasp.tiny.questions import ask
from clasp.tiny.world import generator, scene

WORLD_SCENES = 200
"""Scenes of the world's test split whose questions are collected; more add hardly a new text."""


@dataclass(frozen=True)
class Prompt:
    """One labelled prompt as a model gets it; ``style`` names how it is phrased."""

    text: str
    category: str
    style: str


_LETTER = "Answer with the option's letter from the given choices directly."
_SHORT = "Answer the question using a single word or phrase."
_MMVET = "First please perform reasoning, and think step by step to provide best answer to the following question: \n\n"


def _options(question: str, *options: str) -> str:
    return "\n".join([question, *(f"{letter}. {option}" for letter, option in zip("ABCD", options, strict=False))])


STYLES: Mapping[str, Callable[..., str]] = {
    "short": lambda question: f"{question}\n{_SHORT}",
    "choice": lambda question, *options: f"{_options(question, *options)}\n{_LETTER}",
    "yes_no": lambda question: f"{question} Please answer yes or no.",
    "plain": lambda question: question,
    "tokens": lambda question, tokens: f"{question}\nReference OCR token: {tokens}\n{_SHORT}",
    "hint": lambda hint, question, *options: f"{hint}\n{_options(question, *options)}\n{_LETTER}",
    "reasoned": lambda question: _MMVET + question,
    "video": lambda question: f"{question}\n{_SHORT}",
}
"""How each style wraps the fields of a line, which ``|`` separates."""

# Category -> style -> one prompt a line.
_LINES: Mapping[str, Mapping[str, str]] = {
    "attribute": {
        "short": """
            What color are the curtains?
            What is the bench made of?
            Is the woman's dress striped or plaid?
            What shape does the mirror have?
            Is the suitcase large or small?
            What colour is the umbrella that the lady holds?
            Are the bananas ripe or unripe?
            Does the cat have long or short fur?
            What hair color does the goalkeeper have?
            What type of flooring is this, wood or tile?
            What pattern is on the tablecloth?
            How old does the boy in the red cap look?
            """,
        "choice": """
            What is the color of the frisbee? | White | Orange | Purple | Blue
            Which material is the sculpture made from? | Bronze | Marble | Ice | Wood
            What is the shape of the clock on the tower? | Round | Square | Triangular | Hexagonal
            How would you describe the texture of the blanket? | Fluffy | Smooth | Rough | Shiny
            Which of these describes the man's hair? | Curly and dark | Straight and blond | Bald | Grey and long
            What is the dominant colour of this bird's feathers? | Green | Yellow | Black | Red
            What kind of shoes is the dancer wearing? | Sandals | Boots | Sneakers | Heels
            How does the bread look? | Burnt | Fresh | Mouldy | Frozen
            """,
        "yes_no": """
            Is the fire hydrant painted yellow?
            Is the bowl made of glass?
            Is the color of the motorbike silver?
            Are the player's socks white?
            Does the lamp have a round shade?
            """,
        "plain": """
            What colors can be seen on the parrot?
            Is the sofa leather?
            Tell me what the kettle is made of.
            Describe the outfit of the girl, its colors and its fabric.
            Is the door of the barn open or closed?
            How large is the teddy bear?
            Which color dominates the rug?
            Is the water clear or muddy?
            What does the surface of the wall look like, rough or polished?
            Name the colour of the bride's bouquet.
            """,
        "tokens": """
            what color is the lettering on this sign? | STOP, 4-WAY
            what is the shape of the bottle? | absolut, vodka, 40
            what color is the can on the end? | coke, zero, sprite
            is the phone black or white? | nokia, 12:45, menu
            """,
        "hint": """
            The picture shows a mineral sample. | What is the luster of the sample? | metallic | glassy | dull | waxy
            Select the better answer. | Which property do these two toys share? | soft | hard | stretchy | sticky
            Hint: Look at the object in the middle. | What color is it? | pink | teal | beige | maroon
            """,
        "reasoned": """
            What color of shirt does the tallest man in the group wear?
            What is the material of the roof of the hut?
            Are the tomatoes that the farmer is holding ripe?
            """,
        "video": """
            what color is the car that drives off?
            What is the woman in the video wearing on her head, and what colour is it?
            what is the color of the dog that jumps over the fence?
            """,
    },
    "counting": {
        "short": """
            How many zebras are drinking?
            How many slices of pizza remain?
            How many pillows are on the bed?
            What is the number of surfboards leaning on the wall?
            How many trains do you see?
            How many legs does the stool have?
            How many of the players wear a helmet?
            How many different kinds of fruit are in the bowl?
            How many candles did they put on the cake?
            How many lanes does the road have?
            How many giraffes are standing near the trees?
            How many donuts have sprinkles?
            """,
        "choice": """
            How many boats are on the lake? | 2 | 3 | 5 | 7
            How many monitors stand on the desk? | one | two | three | four
            What is the total count of bicycles in the rack? | 6 | 8 | 9 | 11
            How many people in the picture are seated? | 0 | 1 | 4 | 10
            How many ducks are swimming in the pond? | Five | Six | Seven | Eight
            Count the number of traffic lights that are visible. | 1 | 2 | 3 | 4
            How many wine glasses are empty? | None | One | Two | Three
            How many hands are raised? | 3 | 5 | 6 | 8
            """,
        "yes_no": """
            Are there two laptops in this picture?
            Are there a total of four sheep in the image?
            Is there only one spoon on the tray?
            Are there exactly three kites in the sky?
            Are there more than five books on the shelf?
            """,
        "plain": """
            Count all the apples in the basket.
            How many buttons does the coat have?
            Please count the number of chimneys on the roof.
            How many eggs are left in the carton?
            Give me the number of passengers waiting for the tram.
            How many wheels are on the truck?
            In total, how many balloons are being carried?
            How many cows are lying down and how many are standing?
            I would like to know the quantity of tents at this camp site.
            How many steps lead to the door?
            """,
        "tokens": """
            how many bottles are on the shelf? | merlot, 2011, reserve
            how many signs hang on this pole? | one, way, main, st
            how many players are on the field? | 12, adidas, 23
            how many coins are in the photo? | 25, cent, liberty
            """,
        "hint": """
            The photo was taken in a kindergarten. | How many children hold a crayon? | two | three | six | nine
            Hint: Only whole cups count. | How many cups are there on the table? | 4 | 5 | 6 | 7
            Context: Two solutions are compared. | How many particles does the left beaker hold? | 2 | 3 | 4 | 5
            """,
        "reasoned": """
            How many eggs do you need if each person in the photo eats two?
            How many tomatoes are there?
            What is the number of windows on the second floor?
            """,
        "video": """
            how many people are dancing on the stage?
            How many times does the man lift the weight?
            how many girls are singing?
            """,
    },
    "ocr": {
        "short": """
            What is the name of the shop?
            What does the license plate read?
            What word is on the side of the bus?
            What number is on the runner's bib?
            What time does the digital clock display?
            What is written on the banner?
            What street name appears on the pole?
            What brand of laptop is this?
            What is the title of the book on the left?
            Which team name is printed on the shirt?
            What does the graffiti on the bridge say?
            What is the price shown on the tag?
            """,
        "choice": """
            What does the red sign say? | Exit | Stop | Yield | Danger
            Which word is written on the blackboard? | Algebra | History | Welcome | Quiz
            What is the first letter on the licence plate? | K | M | T | Z
            What text is printed on the mug? | World's best dad | Good morning | Keep calm | I love tea
            Which number is painted on the boat? | 17 | 71 | 117 | 11
            What is the headline of the newspaper? | Election results | Storm warning | Cup final | Moon landing
            What is the speed limit on the road sign? | 30 | 40 | 50 | 60
            Which slogan does the poster carry? | Save water | Vote now | Buy local | Think big
            """,
        "yes_no": """
            Is the word in the logo "Garden"?
            Does the sign say "no parking"?
            Is the phone number in the picture "0131 555 0172"?
            Is the text on the cup written in capital letters "OPEN"?
            Is the title of this magazine "Pilot"?
            """,
        "plain": """
            Transcribe all the text that is visible in this picture.
            What is the expiry date on the package?
            Can you read the name on the tombstone?
            What does the speech bubble of the cartoon say?
            Which company's name is on the airplane?
            What are the words on the T-shirt?
            What does the label on the jar read?
            Please read the first line of the menu.
            Which letters are on the keycap?
            What is the last digit of the phone number?
            """,
        "tokens": """
            what brand is the drink? | pepsi, max, 330ml
            what is the name of the airline? | lufthansa, d-aimc
            who is the author of this book? | the, waves, v., woolf
            what year is on the coin? | 1964, rupee, india
            """,
        "hint": """
            Hint: The answer is on the ticket. | Which gate is given? | A12 | B7 | C31 | D4
            The receipt comes from a bakery. | What is the total amount printed? | 4.20 | 6.75 | 9.10 | 12.00
            Select the right spelling. | What word do the fridge magnets form? | lunch | launch | lurch | bunch
            """,
        "reasoned": """
            What does the warning notice on the machine say?
            What is the equation written on the whiteboard?
            What are all the ingredients listed on the packet?
            """,
        "video": """
            what does the caption at the end of the video say?
            What word does the man write on the board?
            what number is on the jersey of the player who scores?
            """,
    },
    "spatial": {
        "short": """
            What is on top of the fridge?
            Which side of the photo is the lamp on?
            What is behind the bicycle?
            Is the fork to the left or to the right of the plate?
            Where is the remote control lying?
            What animal is in front of the gate?
            Who is standing next to the bride?
            What is hanging above the sofa?
            What sits between the two monitors?
            Is the mouse pad beneath the keyboard?
            What is the boy leaning against?
            Which vehicle is closest to the camera?
            """,
        "choice": """
            Where is the cat in relation to the chair? | On it | Under it | Behind it | Beside it
            Which object lies nearest to the window? | Vase | Phone | Clock | Book
            What is the position of the sun in the picture? | Upper left | Upper right | Center | Lower left
            In which direction is the horse facing? | Left | Right | Toward us | Away from us
            What can be found directly below the shelf? | A desk | A bed | A heater | A dog
            Where is the ball relative to the player's foot? | In front | Behind | On top | Underneath
            Which person stands farthest from the door? | The nurse | The boy | The guard | The cook
            Which corner of the image has the logo? | Top left | Top right | Bottom left | Bottom right
            """,
        "yes_no": """
            Is the bowl on the right side of the kettle?
            Is the parrot above the cage?
            Is the truck in front of the bus?
            Is the pencil inside the cup?
            Is the man on the left of the woman?
            """,
        "plain": """
            Where in the kitchen is the toaster?
            What is located to the right of the church?
            Is the ladder behind the shed or beside it?
            Which of the two children is nearer to the slide?
            What do you see under the bridge?
            On which side of the road is the bus stop?
            Is the moon higher than the tower in this picture?
            Describe where the cup is with respect to the laptop.
            What stands at the far end of the table?
            Is the dog inside or outside of the basket?
            """,
        "tokens": """
            what is to the right of the stapler? | swingline, 747
            where is the bottle placed? | evian, water, 1l
            which item is on the left side of the shelf? | oats, corn, flakes
            what is under the sign? | bakery, open, daily
            """,
        "hint": """
            The map shows a park. | Which landmark is north of the pond? | Gate | Tower | Cafe | Playground
            Hint: Take the viewer's side. | Which toy is left of the drum? | Train | Doll | Kite | Robot
            Context: A diagram of an atom. | Which part is at the center? | Nucleus | Shell | Electron | Orbit
            """,
        "reasoned": """
            Which car is parked farthest away from the entrance?
            What is the relative position of the two buildings to each other?
            What object is on the table to the right of the computer?
            """,
        "video": """
            where does the cat jump to?
            What is next to the man while he is cooking?
            what is the girl sitting on?
            """,
    },
    "scene": {
        "short": """
            What sport venue is this?
            Is it sunny or cloudy?
            What room of the house is pictured?
            Is this a rural or an urban area?
            What is in the background?
            Was this taken during the day or at night?
            What season does the photo seem to be from?
            What is the weather like on the beach?
            Is this an indoor or an outdoor setting?
            What type of environment do the animals live in here?
            Where could this picture have been taken?
            Is it raining?
            """,
        "choice": """
            Which scene category matches this image best? | Airport | Library | Supermarket | Forest
            What kind of weather is depicted? | Snowy | Rainy | Sunny | Foggy
            Which room is this? | Bathroom | Kitchen | Bedroom | Garage
            What time of the day does the photo show? | Dawn | Noon | Dusk | Midnight
            What is the setting of this painting? | A harbour | A battlefield | A village | A ballroom
            What type of landscape can be seen? | Desert | Tundra | Rainforest | Farmland
            Which of these places is it? | Gym | Church | Office | Restaurant
            In which season was this most likely taken? | Spring | Summer | Autumn | Winter
            """,
        "yes_no": """
            Does this image show a train station?
            Is this scene in a hospital room?
            Is this a picture of a snowy mountain landscape?
            Was this photo taken in a place of a football stadium?
            Is it an indoor scene?
            """,
        "plain": """
            What kind of place is shown in this picture?
            Describe the surroundings and the atmosphere of this scene.
            Is the sky overcast?
            What does the background consist of?
            Does this look like a city or the countryside?
            What kind of street is this, busy or quiet?
            What is the overall environment of the photograph?
            Which part of the day is it, judging by the light?
            What kind of terrain surrounds the river?
            Is it a warm summer day or a cold winter day in the picture?
            """,
        "tokens": """
            what kind of store is this? | sale, shoes, 50%, off
            is this indoors or outside? | exit, gate, b4
            what place is this? | welcome, to, city, zoo
            is it day or night? | hotel, vacancy
            """,
        "hint": """
            The picture shows an ecosystem. | Which type of habitat is it? | Taiga | Coral reef | Prairie | Swamp
            Hint: Look at the trees. | What season is this? | Spring | Summer | Autumn | Winter
            Context: N/A | Which climate does this place have? | Tropical | Polar | Desert | Temperate
            """,
        "reasoned": """
            What kind of building interior is this photo taken in?
            What is the weather condition in the scene?
            Which city might this skyline belong to?
            """,
        "video": """
            where are the people having their party, in a house or in a park?
            What kind of place is the video set in?
            is the video shot indoors or outdoors?
            """,
    },
    "general": {
        "short": """
            What is the man throwing?
            Why is the woman smiling?
            What game are they playing?
            Is anyone wearing glasses?
            What is the dog doing?
            Does the bike belong to the girl?
            What is this device used for?
            Is the traveller alone?
            What animal is pictured?
            What might happen next?
            Who is the woman serving?
            What is the profession of the person?
            """,
        "choice": """
            What is the main subject of the picture? | A wedding | A race | A concert | A meal
            Which action is the woman performing? | Running | Reading | Painting | Cooking
            What is the relationship between these people? | Siblings | Colleagues | Strangers | Spouses
            What feeling does the child express? | Joy | Anger | Fear | Boredom
            Which animal is this? | Lynx | Otter | Badger | Moose
            What will the driver probably do next? | Brake | Turn | Park | Honk
            Which of these statements about the image is right? | It is a parody | It is an ad | It is a map | None
            What is the function of the tool? | Cutting | Measuring | Heating | Gluing
            """,
        "yes_no": """
            Is there a backpack in this image?
            Does this artwork come from the baroque period?
            Is the person inside the red box an actor?
            Is it a good idea to cross now?
            Is there a keyboard in the picture?
            """,
        "plain": """
            Is there a fork in the image?
            Is there a traffic light in the image?
            Is there any horse here?
            Do you see a handbag in this photo?
            Describe this photograph in detail.
            What is funny about this picture?
            Can you explain this meme?
            Write a short story about the two friends.
            Does the image contain a surfboard?
            What is the person in the suit doing?
            """,
        "tokens": """
            what is this item for? | shampoo, 200ml
            is this product healthy? | organic, kale, chips
            what is the man holding? | nikon, d90
            who is the person on the poster? | world, tour
            """,
        "hint": """
            Context: The sponge is an animal. | Which organism is a producer? | Kelp | Otter | Urchin | Orca
            Hint: Think of magnets. | Will these two magnets attract or repel? | attract | repel
            Read the passage. | What can be concluded from the experiment? | It failed | It worked | Neither | Both
            """,
        "reasoned": """
            What should be done before using this appliance?
            What is the joke of this picture about?
            Is the person happy about the present?
            """,
        "video": """
            what is a man doing?
            Why did the crowd start to cheer?
            what does the chef do after cutting the onion?
            """,
    },
}


def unseen_prompts() -> tuple[Prompt, ...]:
    """The test half of our own set, in a fixed order."""
    return tuple(
        Prompt(STYLES[style](*(field.strip() for field in line.split("|"))), category, style)
        for category in CATEGORIES
        for style, lines in _LINES[category].items()
        for line in lines.strip().splitlines()
    )


def world_prompts(scenes: int = WORLD_SCENES) -> tuple[Prompt, ...]:
    """The different questions that the picture world asks about its first test scenes, each once, as it sends them."""
    found: dict[str, Prompt] = {}
    for index in range(scenes):
        picture = scene("test", index)
        for category in CATEGORIES:
            question = ask(picture, category, generator("test", index, 2 + CATEGORIES.index(category)))
            if question is not None:
                found.setdefault(question.text, Prompt(question.text, category, "world"))
    return tuple(found.values())


SETS: Mapping[str, Callable[[], tuple[Prompt, ...]]] = {"unseen": unseen_prompts, "world": world_prompts}
"""The sets that routers are measured on."""


def prompts_hash(prompts: tuple[Prompt, ...]) -> str:
    """Names the texts and labels of a set, in order."""
    content = json.dumps([[prompt.text, prompt.category] for prompt in prompts]).encode()
    return f"sha256:{hashlib.sha256(content).hexdigest()[:24]}"
