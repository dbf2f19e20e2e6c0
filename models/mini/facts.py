# ruff: noqa: E501, SIM905 (word lists read better as text)
"""The word lists behind `world`: small talk, jokes, capitals and so on."""

import random

_ONES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen "
    "nineteen"
).split()
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()


def number(n: int) -> str:
    """0..100 in words."""
    if n == 100:
        return "one hundred"
    if n < 20:
        return _ONES[n]
    return _TENS[n // 10 - 2] + (f" {_ONES[n % 10]}" if n % 10 else "")


def numbers(values) -> str:
    """Several numbers in words."""
    return " ".join(number(n) for n in values)


DAYS = "monday tuesday wednesday thursday friday saturday sunday".split()
MONTHS = "january february march april may june july august september october november december".split()
ORDERS = [("number", [number(n) for n in range(101)]), ("day", DAYS), ("month", MONTHS)]


def _table(text: str) -> dict[str, str]:
    """`a:b, c:d` as a dictionary."""
    return dict(pair.strip().split(":") for pair in text.split(","))


COLOURS = _table(
    "sky:blue, grass:green, sun:yellow, snow:white, blood:red, coal:black, banana:yellow, lemon:yellow, tomato:red, milk:white, "
    "chocolate:brown, frog:green, strawberry:red, carrot:orange, ocean:blue, elephant:grey, night:black, leaf:green"
)
CAPITALS = _table(
    "france:paris, germany:berlin, italy:rome, spain:madrid, england:london, japan:tokyo, china:beijing, russia:moscow, "
    "greece:athens, egypt:cairo, poland:warsaw, sweden:stockholm, norway:oslo, austria:vienna, ireland:dublin, portugal:lisbon, "
    "denmark:copenhagen, finland:helsinki, hungary:budapest, turkey:ankara, india:delhi, canada:ottawa, cuba:havana, peru:lima, "
    "kenya:nairobi, iraq:baghdad, iran:tehran, thailand:bangkok, vietnam:hanoi, nepal:kathmandu, scotland:edinburgh, "
    "wales:cardiff, belgium:brussels, romania:bucharest, bulgaria:sofia, croatia:zagreb, ukraine:kiev, iceland:reykjavik, "
    "morocco:rabat, jamaica:kingston"
)
_OPPOSITES = _table(
    "hot:cold, big:small, fast:slow, day:night, black:white, good:bad, up:down, left:right, open:closed, happy:sad, old:young, "
    "high:low, full:empty, rich:poor, strong:weak, wet:dry, early:late, hard:soft, loud:quiet, near:far, first:last, light:dark"
)
OPPOSITES = _OPPOSITES | {b: a for a, b in _OPPOSITES.items()}
SOUNDS = _table(
    "dog:woof, cat:meow, cow:moo, sheep:baa, duck:quack, lion:roar, bird:tweet, pig:oink, horse:neigh, frog:ribbit, bee:buzz, "
    "owl:hoot"
)
LEGS = _table(
    "dog:four, cat:four, bird:two, spider:eight, cow:four, duck:two, snake:no, bee:six, horse:four, fish:no, ant:six"
)
LIKES = {
    **dict.fromkeys("music numbers dogs cats books summer chocolate people games tea".split(), True),
    **dict.fromkeys("noise rain mondays spiders winter silence homework coffee".split(), False),
}
NAMES = (
    "anna peter mary tom lisa john sarah paul emma david laura mike julia jack sophie daniel kate robert helen max nina george "
    "clara henry alice frank maria simon lucy martin eva thomas rosa felix grace oscar linda victor diana leo"
).split()

# Intent, phrasings, answer.
SMALL_TALK = [
    (
        "greet",
        "hello|hi|hey|hello there|hi there|good morning|good evening|good afternoon|hey there|greetings",
        "hello, how are you",
    ),
    (
        "name",
        "what is your name|who are you|tell me your name|what are you called|may i know your name|what should i call you",
        "my name is {name}",
    ),
    (
        "what",
        "what are you|what kind of thing are you|are you a model|are you a person",
        "i am a very small talking model",
    ),
    (
        "skills",
        "what can you do|what do you know|can you help me|help me please|how can you help me|what are your skills",
        "i can count, add, spell and answer simple questions",
    ),
    ("how", "how are you|how are you today|how do you do|are you okay|how is it going", "i am fine, thank you"),
    ("thanks", "thank you|thanks|thank you very much|thanks a lot|many thanks", "you are welcome"),
    ("bye", "goodbye|bye|bye bye|see you later|see you tomorrow|good night", "goodbye, see you soon"),
    ("age", "how old are you|what is your age|when were you born", "i was born yesterday"),
    ("where", "where are you|where do you live|where are you from", "i live inside your computer"),
    ("robot", "are you a robot|are you human|are you a machine|are you real", "yes, i am a small program"),
    ("maker", "who made you|who built you|who created you|who trained you", "i was made from scratch"),
    ("sing", "sing a song|can you sing|sing me a song|sing something", "la la la la la"),
    ("time", "what time is it|tell me the time|do you know the time", "sorry, i have no clock"),
    (
        "weather",
        "how is the weather|what is the weather like|will it rain today|is it cold outside",
        "sorry, i can not see outside",
    ),
    ("love", "i love you|i like you|you are nice|you are great|well done", "that is very kind of you"),
    ("hear", "can you hear me|do you hear me|are you there|are you listening", "yes, i can hear you"),
    ("blame", "you are stupid|you are wrong|that is wrong|i hate you", "sorry about that"),
    ("week", "how many days are in a week|how long is a week", "a week has seven days"),
    ("year", "how many months are in a year|how long is a year", "a year has twelve months"),
    ("coin", "flip a coin|toss a coin|heads or tails", "it is heads"),
    (
        "alphabet",
        "say the alphabet|tell me the alphabet|recite the alphabet",
        "a b c d e f g h i j k l m n o p q r s t u v w x y z",
    ),
    ("days", "what are the days of the week|name the days of the week|tell me the days", " ".join(DAYS)),
    ("months", "name the months|what are the months of the year|tell me the months", " ".join(MONTHS)),
    ("yes", "yes|yes please|sure|of course", "okay"),
    ("no", "no|no thanks|not really|never mind", "okay, no problem"),
    ("sad", "i am bored|i am tired|i am sad|i feel bad", "i am sorry to hear that"),
    ("glad", "i am fine|i am happy|i am very well|i feel good", "i am glad to hear that"),
    ("food", "what do you eat|are you hungry|what is your favourite food", "i eat only numbers"),
    ("favourite", "what is your favourite colour|which colour do you like", "my favourite colour is blue"),
    ("friend", "are you my friend|will you be my friend|can we be friends", "yes, i am your friend"),
    (
        "language",
        "do you speak german|do you speak french|which language do you speak|what languages do you know",
        "i speak only english",
    ),
    ("think", "can you think|are you smart|are you clever|do you have a brain", "i know very little"),
    ("slow", "speak slower|speak slower please|can you speak slower|not so fast", "sorry, i can only speak like this"),
    ("luck", "wish me luck|good luck|i have an exam", "good luck to you"),
    ("ready", "are you ready|shall we start|let us begin", "yes, i am ready"),
    ("surprise", "really|are you sure|is that true", "yes, i think so"),
]
STOP = "stop|wait|be quiet|stop talking|hold on|stop please|enough|wait a moment|quiet please|okay stop"
BACKCHANNELS = "yeah|uh huh|mm hmm|right|i see|okay|wow|aha".split("|")
JOKES = [
    "why did the chicken cross the road, to get to the other side",
    "what do you call a bear with no teeth, a gummy bear",
    "why was six afraid of seven, because seven ate nine",
    "what has four wheels and flies, a garbage truck",
    "what did the zero say to the eight, nice belt",
]
STORIES = [
    "once upon a time there was a little robot, it lived alone in a big house, one day a cat came to the door, the robot gave "
    "the cat some milk, and from that day on they were friends",
    "a small boat went out to sea, the wind was strong and the night was dark, but the moon showed the way, and in the morning "
    "the boat came home with a golden fish",
    "a king had a clock that could not stop, every hour it sang a song, the people could not sleep, so a girl gave the clock a "
    "pillow, and now it sings only at noon",
]
OUTSIDE = (
    "the committee will vote on the budget|my cousin bought seven llamas|please forward the invoice to accounting|"
    "a quick brown fox jumps over the lazy dog|we should refinance our mortgage|the parliament adjourned until further notice|"
    "he never finished his dissertation|turn the valve clockwise and then release it|some people prefer to walk along the shore|"
    "this machine requires maintenance twice yearly|nobody expected such a strange result|she sells sea shells by the sea shore|"
    "investors worry about inflation|the recipe calls for two cups of flour|his boots were covered in mud|"
    "they argued about politics all night|the satellite lost contact with earth|it was raining when we left the theatre|"
    "book me a flight to boston|what is the price of gold|who won the game last night|play some jazz in the living room|"
    "how do i get to the airport|what is the population of brazil|set an alarm for half past six|explain quantum mechanics|"
    "who is the president|how tall is mount everest|when does the next bus leave|can you order a pizza for me|"
    "my printer does not work any more|do you think it will snow at christmas|she told him not to open the letter|"
    "i need a new pair of running shoes|the doctor said i should rest for a while|we are moving to a larger flat in spring|"
    "have you ever been to the opera|what is the meaning of this word|convert ten miles into kilometres|"
    "the neighbours complained about the smell|could you lower the blinds|why is the internet so slow today|"
    "he works for an insurance company|they have been married for thirty years|the museum is closed for renovation|"
    "remind me to water the plants|how many people live in london|what is the square root of two|write an email to my boss|"
    "translate this sentence into spanish"
).split("|")
_WHO = "the teacher|my brother|our neighbour|a stranger|the minister|her uncle|the driver|somebody|the whole team|his lawyer".split(
    "|"
)
_DID = (
    "forgot|repaired|sold|painted|described|borrowed|destroyed|ordered|noticed|returned|explained|photographed".split(
        "|"
    )
)
_WHAT = "the engine|a letter|two tickets|the fence|her luggage|an old map|the contract|some furniture|the roof|a sandwich".split(
    "|"
)
_WHEN = "yesterday|before lunch|in the garage|without asking|near the river|last summer|by mistake|after the meeting|again".split(
    "|"
)


def fill(draw: random.Random) -> str:
    """A sentence about nothing this model knows: 10 800 different ones."""
    return " ".join(draw.choice(part) for part in (_WHO, _DID, _WHAT, _WHEN))


ECHO = (
    "apple house water table river mountain window garden paper music orange silver purple tiger rabbit monkey elephant doctor "
    "teacher summer winter morning evening bread butter cheese sugar pepper flower forest island bridge castle dragon robot rocket "
    "planet ocean thunder rainbow butterfly umbrella telephone computer hamburger guitar piano violin bicycle airplane train station "
    "hospital library school market kitchen pencil candle mirror pillow blanket jacket button pocket hammer ladder animal answer "
    "autumn baby balloon basket battery beach beard bedroom bottle bowl box brain branch brother brush bucket building bus cake "
    "camera camel captain carpet chair chicken child church circle city cloud coat coffee coin cookie copper corner cotton cousin "
    "crown cup curtain daughter desert desk diamond dinner dolphin donkey door dress drum eagle ear engine eye face factory family "
    "farmer father feather field finger fire fish floor foot fork fountain friend fruit game gate giant giraffe glass glove goat "
    "gold grape grass hair hand hat heart helmet hill holiday honey horse hotel ice insect iron jelly jewel jungle key king kitten "
    "knee knife lake lamp leather leg lemon letter lion lizard lock machine magnet map marble meat medal melon metal milk minute "
    "money moon mother mouse mouth museum mushroom nail neck needle nest nose number nurse office onion oven owl paint palace park "
    "parrot party peanut pear pepper picture pirate pizza plate player pocket police pony potato present prince prison puppet puppy "
    "puzzle queen question rain rice ring road rope rose sailor salad salt sand sandwich scissors season secret shadow shark sheep "
    "ship shirt shoe shop shoulder sister sky snake snow soap sock soldier song soup spider spoon square squirrel star stone storm "
    "story street student sun sweater table tailor tea tent thumb ticket toast tongue tooth towel tower town toy tractor treasure "
    "tree trumpet tunnel turtle uncle valley vegetable village voice waiter wall wallet watch wheel whistle wind wing wolf woman "
    "wood wool world yellow zebra acorn airport album alphabet anchor ankle apron arrow artist atlas attic avocado bacon bagel bakery "
    "balcony bamboo banner barn barrel beaver beetle bell belly bench berry blossom boot border boulder bracelet bronze bubble buffalo "
    "bunny cabbage cabin cactus calendar canary canyon caravan caterpillar cave celery cello chain chalk cherry chess chimney cinema "
    "clay cliff clown cobweb coconut compass cookbook corn cottage cradle crater cricket crystal cushion cymbal daisy dentist dice dish "
    "ditch donut dragonfly drawer dwarf easel elbow emerald envelope eraser fabric falcon fence fiddle fig flag flamingo flute fog "
    "forehead fossil fox freezer fudge funnel galaxy garage garlic gazelle ghost ginger glacier goblin gorilla gravel hamster harbour "
    "harp hawk hedgehog herb hippo hive hook igloo ivory jacuzzi jaguar jeans jungle kangaroo kettle kite koala lantern lavender "
    "lemonade lighthouse lily lobster lotus magazine mango maple mermaid meteor mint mitten moth muffin mustard napkin nectar noodle "
    "nugget oasis octopus olive omelette opera orchard ostrich otter oyster paddle pancake panda papaya parachute parade peacock pebble "
    "pelican penguin petal pigeon pillar pineapple piston plum pollen porridge pumpkin quilt radio radish raisin reptile ribbon river "
    "saddle salmon satellite saxophone seal shelf shovel skeleton spinach sponge statue submarine sunset swan tadpole tambourine teapot "
    "temple thimble tomato torch trampoline tulip turnip unicorn vampire vase vinegar volcano waffle walnut walrus wizard yogurt zipper"
).split()
ECHO = list(dict.fromkeys(ECHO))
