"""Labelled questions that the embedding router compares prompts with: the prototype half of our own set.

Written for this project in the manner of the public benchmarks, without their templates, which the router strips. What
each category means, and the unseen half on which routers are measured: :mod:`clasp.evaluation.routing.prompts`. No
question stands in both halves. Torch-free.
"""

from __future__ import annotations

_LINES = {
    "attribute": """
        What color is the car?
        What is the color of the flower in the vase?
        Which color are the walls painted in?
        What colour of hat does the old man have on?
        What are the colors of the flag?
        Is the traffic light red or green?
        Is the horse brown?
        The vehicle in the front, is it blue?
        Is there a green bottle, or is the bottle brown?
        Is the color of the handbag pink?
        What hue do the leaves have?
        What shape is the plate?
        What is the shape of this table?
        Is the window rectangular or arched?
        Does the pool have an oval shape?
        Which geometric form does the cookie have?
        What size is the dog?
        Is the elephant big or small?
        How big is the cake?
        How long is the woman's hair?
        Is the building tall or short?
        How thick is the book?
        What is this made of?
        What material is the bag?
        Is the statue made of stone or metal?
        Which fabric is the coat made from?
        Is the chair wooden?
        Is the pot ceramic?
        What is the texture of the cloth?
        Does the carpet look soft?
        Is the road wet or dry?
        Is the shirt plain or patterned?
        What kind of pattern does the tie have?
        Is the glass full or empty?
        Is the fruit fresh or rotten?
        Is the laptop turned on or off?
        Is the old car rusty?
        What kind of dog is shown?
        What type of shirt does the boy wear?
        What style of trousers is the model wearing?
        Does the man have a beard or a moustache?
        What is the woman's hair like?
        How old is the person?
        Which of the following best describes the look of the shoes?
        What do both of these objects have in common, are they smooth or rough?
        What is the appearance of the cat's fur?
        Describe the clothes of the singer.
        What color is the bird that flies away in the video?
        Is the ribbon blue or purple?
        Is the cup made of plastic?
        Are the shoes black?
        Are the pillows round?
        Is the tower high?
        Is the man tall?
        Is the fur of the animal spotted?
        Is the bottle sealed or opened?
        Is the window broken?
        Is the meat cooked or raw?
        Is the hair of the girl curly?
        Is the drawer shut?
        What breed is the horse?
        What kind of hat is it?
        What kind of car is parked there?
        What type of material covers the seat?
        What species of bird is this?
        How heavy does the box look?
        How wide is the river?
        How old is this building?
        Which color is the letter?
        What color are the numbers on the clock?
        Which shape has the sign?
        What is the size of the pizza?
        What is the surface of the ball like?
        What is the man wearing?
        Which of these is the color of the eyes of the woman?
        Tell me the shape of the cloud.
        What are the physical features of the animal?
        The curtain, which colour does it have?
        What is the color of the ball on the left?
        Which colors does the painting use the most?
        Is the box heavy or light?
        Is the street narrow or wide?
        Is the knife sharp or blunt?
        Is the floor clean?
        Is the gate locked?
        Is the wheel flat?
        Is the jacket made from leather?
        Are the lights of the car on?
        Are the leaves green or yellow?
        Are the lips of the woman red?
        Are the eyes of the cat closed?
        What is the driver wearing?
        What clothes does the nurse have on?
        What kind of bag is it?
        What kind of tree is that?
        What type of bread is it?
        What condition is the house in?
        What is the age of the man?
        """,
    "counting": """
        How many people are there?
        How many dogs can be seen in the image?
        How many chairs are around the table?
        How many of the cars are parked?
        How many wheels does the bike have?
        How many windows does the house have?
        How many children are wearing hats?
        How many birds are sitting on the wire?
        How many cats are on the left of the sofa?
        How many red flowers are in the vase?
        How many types of vegetables are shown?
        How many floors does the building have?
        How many men and how many women are in the group?
        How many fingers is she holding up?
        How many cookies are left on the plate?
        How many signs can you find?
        How many letters are on the table?
        How many cups are made of glass?
        How many planes are in the sky?
        How many rooms does the plan show?
        How many animals are visible in the background?
        What is the number of bottles?
        What is the number of players in white shirts?
        What number of boxes is stacked here?
        What is the total number of lamps?
        What is the total of all the balls in the picture?
        The number of horses in the photo is what?
        Count the objects.
        Count how many oranges there are.
        Count the bananas on the counter.
        Can you count the umbrellas?
        Tell me how many phones you see.
        Give the exact number of plates.
        Are there three cats?
        Are there two people in this image?
        Are there five oranges in the bowl?
        Is there only one boat in the harbour?
        Are there a total of ten candles?
        Are there exactly six eggs?
        Are there more than two bicycles?
        Is the number of trees four?
        Does the picture contain two clocks?
        How many molecules of solute are in solution A?
        How many pieces of luggage does the family have?
        How many people appear in the video?
        How many times does the boy jump?
        How many goals are scored in the clip?
        How much fruit is there, counted in pieces?
        How many persons wear glasses?
        How many cakes are there in total?
        How many benches stand beside the path?
        How many ships have a sail?
        How many numbers are on the dial?
        How many words are in the sentence?
        How many colors does the flag have?
        How many pages are open?
        How many stars can you spot?
        How many players are in the team?
        How many shapes are there?
        How many elephants are drinking at the river?
        How many paintings are hanging in the room?
        How many corners does the shape have?
        What is the amount of coins?
        What is the count of passengers?
        State the number of lights on the ceiling.
        Count the vehicles on the street.
        Count up the people sitting in the front row.
        Are there four knives?
        Are there two towels on the rack?
        Are there three people in the picture?
        Are there only two chairs in this image?
        Are there a total of eight horses in this photo?
        Are there fewer than three bags?
        Is there a total of one ball?
        Is there just a single tree?
        Are there six different flowers?
        Does the desk have four drawers?
        Do you see exactly two cows?
        How many hours of the day are shown on the chart?
        How many more dogs than cats are there?
        Are there two dogs in the photo?
        Are there two or three boys?
        Does the photo show three boats?
        Does the table have four legs?
        """,
    "ocr": """
        What does the plaque say?
        What does the text on the wall say?
        What do the letters on the truck spell?
        What is written there in chalk?
        What is written at the top of the page?
        What is printed on the box?
        What word is written in white letters?
        Which words are on the sticker?
        What letter is on the cap?
        Which digit is shown?
        What character is drawn on the paper?
        Read the text on the label.
        Read what the screen shows.
        Can you read the handwriting on the note?
        Transcribe the letter.
        Extract the text of the document.
        Spell the word in the image.
        What number is on the door of the house?
        What is the number of the train?
        What number does the player have on the back?
        What is the license plate number of the car?
        What phone number should one call?
        What is the web address on the advert?
        What date is stamped on the envelope?
        What year is given on the plaque?
        What time is it on the clock?
        What time does the watch say?
        How much does the item cost?
        What is the price of the coffee?
        What is the total on the bill?
        What is the brand name on the bottle?
        What brand is the camera?
        Which brand made this phone?
        What company is advertised?
        What is the name of this restaurant?
        What is the street called?
        What is the name of the player on the card?
        What is the title of the movie on the poster?
        Who wrote the book?
        Which city is named on the ticket?
        What is the headline?
        What is the first word of the sentence?
        What is the result of the calculation on the paper?
        What percentage does the label state?
        Is "Sunrise" the word on the badge?
        Does the shirt say "Number one"?
        Is the name of the shop "Corner Cafe"?
        What do the subtitles in the video say?
        What does it say on the packet?
        What does the notice tell?
        What does the note on the fridge read?
        What does the screen of the phone show as text?
        What words appear in the picture?
        What word comes after "the"?
        Which word stands at the bottom of the poster?
        Which letters are on the license plate?
        What is the second letter of the word?
        What are the numbers on the ticket?
        What is the number written on the ball?
        What is the page number?
        Which number is the bus?
        What is the room number?
        What is the temperature on the display?
        What is the score on the board?
        What is the date of the concert?
        What is the time on the watch?
        What is the name on the badge?
        What is the name of that book?
        What is this beer named?
        What is the hotel's name?
        What is the brand of the watch?
        Which brand is on the shoe?
        What logo is on the truck?
        Who is the publisher of the magazine?
        What is the author's name?
        Is the sign labelled "Danger"?
        Does the text in the image say "Happy birthday"?
        Is the number on the house 24?
        Please read out what stands on the card.
        Write down the text of the note.
        What words can be read in the picture?
        Which text is in the image?
        What is the number on the shirt?
        What number is the taxi?
        """,
    "spatial": """
        What is to the left of the lamp?
        What is on the right side of the picture?
        What is above the fireplace?
        What is under the table?
        What is beneath the tree?
        What is on the shelf?
        What is lying on top of the books?
        What is between the two chairs?
        What is next to the man?
        What is beside the road?
        What is behind the fence?
        What is in front of the mirror?
        What is inside the bag?
        What is at the bottom of the image?
        Who is to the right of the child?
        Who is sitting beside the driver?
        What hangs over the bed?
        What is the woman standing on?
        What is the bird perched on?
        Where is the cat?
        Where are the keys?
        Where is the ball in the picture?
        Where does the boy sit?
        Where is the bench located relative to the fountain?
        In which corner is the plant?
        On which side of the bed is the drawer?
        In what direction does the car point?
        Which way is the man looking?
        Which object is closest to the door?
        Which animal is nearer to the water?
        Which building is furthest away?
        Which chair is in the middle?
        Is the cup to the right of the plate?
        Is the dog left of the girl?
        Is the clock above the door?
        Is the cat under the car?
        Is the bicycle behind the tree?
        Is the spoon inside the bowl?
        Is the lamp on the left or on the right?
        Is the picture above or below the shelf?
        Is the boat far from the shore?
        Are the two cups next to each other?
        Is the pillow on the couch or on the floor?
        What is the position of the star in the image?
        How are the box and the ball placed relative to each other?
        Describe the location of the fridge.
        Which country lies south of the river on this map?
        Where does the man put the box in the video?
        What is located behind the counter?
        What is placed near the window?
        What is on the desk?
        What is on the plate?
        What is right of the bed?
        What is on the left of the screen?
        What is in the middle of the square?
        What is the cup standing on?
        What is at the top of the hill?
        What is in the lower left part of the picture?
        What is attached to the wall above the sink?
        What animal is on the left side?
        What is beyond the river?
        Who is behind the girl?
        Who is in the front?
        Where is the child standing?
        Where is the spoon placed?
        Where is the phone, on the table or in the bag?
        Where in the image is the dog?
        Which side is the door on?
        Which person is on the far right?
        Which item is at the bottom of the stack?
        Which of these is nearest to the viewer?
        Is the man on the left side of the horse?
        Is the sofa in front of the window?
        Is the box on top of the cupboard?
        Is the ball under the chair?
        Is the bird to the left of the branch?
        Is the boy beside his mother?
        Is the woman closer to the tree than the dog?
        Does the car stand behind the house?
        How far is the dog from the ball?
        Which way does the train head?
        Which direction is the arrow pointing?
        Which one is closer, the dog or the cat?
        What is the person standing next to?
        What is in the box?
        State the place of the cup on the table.
        At what height does the picture hang?
        Is the logo left or right of the slogan?
        Does the phone lie left or right of the book?
        Is the number above or below the name?
        Is the word at the top or at the bottom of the page?
        """,
    "scene": """
        Which background was chosen for the portrait?
        What can be seen in the background of the photo?
        What kind of background does the picture have?
        What pattern does the background have?
        Is the background plain or detailed?
        What kind of place do we see?
        What place does this image show?
        Which place is depicted?
        Where was this photo taken?
        Where was the picture most likely shot?
        Where are these people, at a park or at an office?
        Is it indoors or outdoors?
        Are they inside or outside?
        Is this photo taken indoors?
        Is this scene outdoors?
        What room is this?
        Which room of the building do we see?
        Is this a kitchen?
        Is this a photo of a bedroom?
        What kind of building is the inside of?
        What kind of shop is it?
        What type of restaurant is this?
        What weather do we see?
        How is the weather in the picture?
        Is it a sunny day?
        Is it snowing or raining?
        Is the weather foggy?
        Is the sky clear or cloudy?
        What season is it?
        Which season of the year is shown here?
        Is it winter in the photo?
        What time of day is it?
        Is it daytime or nighttime?
        Is it morning or evening?
        Does the light suggest sunset?
        Describe the setting of the image.
        Describe the environment.
        What is the setting?
        What is the atmosphere of the place?
        Which scene is shown, a beach or a street?
        Which category of scene does this picture belong to?
        Does this image show a landscape with mountains?
        Is this picture captured in a place of bus station?
        What sort of landscape is this?
        Is this a city or a village?
        Which kind of ecosystem is it?
        What is the climate of this region like?
        In what kind of place does the video take place?
        What is visible behind the people, a forest or a town?
        What does the backdrop show?
        What does the background look like?
        What type of room is it?
        What kind of room do we look at?
        What sort of location is this?
        What kind of area is it?
        What type of place are the people in?
        Which kind of venue is it?
        Which location fits the photo best?
        Where are they?
        Where does this scene take place?
        Where might the people be?
        Where is this?
        Is the location a museum?
        Is this a park?
        Is this a scene in a school?
        Is it a photo of a market?
        Does this picture show a library?
        Does this image show the inside of a plane?
        Is this taken in a place of swimming pool?
        Is it a beach?
        Does it rain?
        Is it cold outside?
        Is it a windy day?
        Is it dark or bright?
        Is it autumn?
        Which month could it be by the look of nature?
        Was the photo shot at noon or in the evening?
        What are the light conditions of the scene?
        What is the weather in the video?
        Is the scene natural or man-made?
        Does this photo show a bakery?
        Does this image depict a harbour?
        Is the light in the scene dim?
        Is this photo taken in a place of supermarket?
        Which pattern covers the backdrop?
        What texture does the upper half of the background have?
        What fills the lower part of the scene, grass or sand?
        """,
    "general": """
        Is there a dog in the photo?
        Is there any person in the image?
        Is there a dining table in the photo?
        Is there a banana in this photo?
        Is there any car?
        Are there any bottles in the scene?
        Are there people in the photo?
        Does the picture contain a clock?
        Does the photo show a bird?
        Can you see any trees?
        Do you see a knife?
        Has the man got an umbrella?
        What is happening in the picture?
        What is going on here?
        What do we have here?
        What is that thing called?
        What animal is it?
        Which object is shown?
        What kind of event is taking place?
        Describe the image.
        Give a detailed description of this picture.
        Summarize what you see.
        Write a caption for this photo.
        What is she doing?
        What are the children doing?
        What are they eating?
        What is the woman holding in her hand?
        What is the man carrying?
        What sport is being played?
        Who is this person?
        Is this artwork titled after a myth?
        Is the actor inside the red box called Sam?
        What emotion does the face show?
        Is the man happy?
        Why is the boy crying?
        Why is this image unusual?
        What is the purpose of this object?
        What is the joke about?
        What will happen in the next moment?
        What could be the relation of the two persons?
        What job does this man have?
        Is it appropriate to swim here?
        Is it safe to eat this?
        Which of the following statements is true?
        Which of these organisms is a predator in the food web?
        Which animal appears the most often?
        Which of the vehicles is the largest?
        What does the man do after he opens the door in the video?
        Is there any fruit?
        Is there an airplane in the sky?
        Is there an oven in the image?
        Is there a toothbrush to be seen in the image?
        Is there a couch in the room?
        Is there someone in the water?
        Are there any animals?
        Are there any cars on the street?
        Are there clouds in the sky?
        Does this image include a truck?
        Can a sheep be seen in the picture?
        Do you notice a hat anywhere?
        Does the woman have a handbag?
        What is in the picture?
        What object is this?
        What are these things?
        What vehicle is this?
        What food is this?
        What is the man doing with the ball?
        What is the girl playing?
        What are they watching?
        What activity are the people engaged in?
        What instrument does he play?
        What is this tool good for?
        What is he using to cut the bread?
        Who is using the phone?
        Who won the game?
        Is the woman running?
        Are they having fun?
        Is this person famous?
        Is this a painting by a famous artist?
        Is the man in the picture the director of the film?
        Does the boy look sad?
        Why do the people wait?
        Why are they wearing masks?
        How does the machine work?
        How can I get this dish ready at home?
        What does this meme mean?
        What is strange about this scene?
        What would you advise to the person?
        What is the best title for this picture?
        What is the message of the cartoon?
        What causes the change that is shown in the diagram?
        What do these two have in common?
        Which property makes this answer correct?
        Which sentence describes the picture best?
        What comes next in the series?
        What is the most common kind of vehicle here?
        Which is the heaviest of all the things?
        Is the statement supported by the picture?
        Is the person shown in the box a singer?
        Is this man the president of a country?
        Was this artwork made by a sculptor?
        Is this artwork displayed in a museum?
        Is the man about to fall?
        Is the girl playing with the dog?
        Is it possible to park a car here?
        Is it healthy to eat this every day?
        Does the image show a bear?
        Can you see a train?
        Do you see any people?
        Is there a lamp anywhere in this photo?
        Is there a snowboard in the snow?
        Are there two different animals that fight?
        What are the benefits of this food?
        What does this scene tell about the culture?
        What conclusion follows from the chart?
        What lesson does the picture teach?
        Explain what happens in the image.
        What mood do the people seem to be in?
        What kind of animal is it?
        Which kind of sport do they practise?
        What happens after the boy opens the gift?
        Which dog is the biggest?
        Which of the animals is the smallest?
        What is the tallest building?
        What is the most frequent kind of fruit?
        Which color occurs the most often?
        Does the picture show a tractor?
        """,
}

PROTOTYPES: dict[str, tuple[str, ...]] = {
    category: tuple(line.strip() for line in lines.strip().splitlines()) for category, lines in _LINES.items()
}
"""Category -> its prototypes; in the order of :data:`clasp.policy.CATEGORIES`."""
