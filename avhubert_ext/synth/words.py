"""Common English words by kind, and sentence templates that use them.

A slot <kind> is filled with a word of that kind; "a" becomes "an" before a vowel. The lists define
the corpus: changing the spelling of a word would change its transcripts and models.
"""

from __future__ import annotations

WORDS: dict[str, tuple[str, ...]] = {
    kind: tuple(words.split())
    for kind, words in {
        "person": """man woman boy girl child teacher doctor farmer friend neighbor brother sister
            mother father uncle student driver singer writer painter baker soldier sailor lawyer
            captain queen king guest nurse cook""",
        "people": """men women boys girls children teachers doctors farmers friends neighbors
            brothers sisters students drivers singers writers painters workers soldiers visitors
            players guests nurses parents""",
        "name": """mary john peter susan david anna robert helen george emma thomas laura martin
            julia simon sarah michael alice daniel ruth""",
        "animal": """dog cat horse cow sheep bird fish mouse rabbit bear fox lion duck goat chicken
            wolf""",
        "thing": """book table chair cup bottle knife box bag key letter picture lamp clock phone
            basket blanket bicycle ball hat coat shoe ring boat kettle ladder map mirror paper
            pencil plate radio rope spoon stone ticket towel wheel window candle camera hammer
            bucket button drum flag shirt""",
        "things": """books tables chairs cups bottles knives boxes bags keys letters pictures lamps
            clocks phones flowers apples potatoes shoes stones tickets windows candles photographs
            songs stories questions answers""",
        "food": """bread butter cheese rice soup milk tea coffee water sugar fruit meat honey cake
            chocolate pepper juice salad""",
        "place": """house garden kitchen school market church river bridge forest village city
            station library office farm beach mountain hospital museum theatre street park island
            valley harbour castle field hotel shop bakery""",
        "idea": """weather music story plan work news language history science future problem answer
            question idea reason system government business health""",
        "quality": """big small old young new good bad long short warm cold dark bright quiet loud
            heavy light clean dirty happy sad strong weak beautiful famous strange simple
            different important easy empty funny gentle hungry careful little tall thin wide
            wooden yellow green red blue white black brown golden""",
        "moved": """walked ran drove hurried traveled returned moved jumped wandered went climbed
            came""",
        "move": """walk run drive hurry travel return move go come""",
        "did": """found lost bought sold carried dropped opened closed painted washed broke fixed
            wanted needed liked moved watched forgot remembered brought kept pulled pushed touched
            borrowed chose hid showed threw used""",
        "do": """find lose buy sell carry drop open close paint wash break fix want need like move
            watch forget remember bring keep pull push touch borrow choose hide show throw use""",
        "felt": """looked seemed felt became sounded was remained""",
        "ate": """made cooked ate served shared tasted ordered finished""",
        "said": """said thought knew hoped believed noticed heard""",
        "number": """two three four five six seven eight nine ten eleven twelve twenty thirty forty
            fifty""",
        "when": """today yesterday again together early later often quickly slowly quietly always
            tonight tomorrow before already""",
        "day": """monday tuesday wednesday thursday friday saturday sunday""",
        "season": """spring summer autumn winter""",
        "near": """in near behind beside towards past around through""",
        "modal": """can could should must will would might""",
        "subject": """we they you""",
        "why": """because while although when before after""",
        "whose": """my your his her our their the""",
    }.items()
}

TEMPLATES: tuple[str, ...] = (
    "<name> <did> <whose> <thing>",
    "the <people> <moved> <when>",
    "the <person> and the <person> <did> <number> <things> on <day>",
    "the <person> <did> the <quality> <thing>",
    "the <quality> <person> <did> <whose> <thing> <when>",
    "a <quality> <animal> <moved> <near> the <place>",
    "<name> <did> <number> <quality> <things>",
    "<name> and <name> <moved> <near> the <place> on <day>",
    "<subject> <modal> <do> <whose> <things> <when>",
    "<subject> <modal> <move> to the <place> on <day>",
    "please <do> the <thing> <near> the <place>",
    "do <subject> <do> the <quality> <thing>",
    "<whose> <idea> <felt> very <quality>",
    "the <idea> in the <place> <felt> <quality> this <season>",
    "there were <number> <things> <near> the <quality> <place>",
    "there is a <thing> <near> the <place>",
    "<subject> <ate> the <food> and the <food>",
    "the <person> <ate> some <quality> <food> in the <place>",
    "<name> <said> that the <people> <did> the <thing>",
    "the <people> <said> it was a <quality> <idea>",
    "what did the <person> <do> in the <place>",
    "where <modal> <subject> <do> <whose> <quality> <things>",
    "<number> <people> <moved> <near> <whose> <place> <when>",
    "i <did> the <thing> <why> the <person> <felt> <quality>",
    "i <modal> not <do> this <quality> <thing>",
    "every <season> the <people> <did> <whose> <things>",
    "<whose> <person> <did> the <animal> and the <animal>",
    "it <felt> <quality> <near> the <place> on <day>",
    "she <said> the <animal> <moved> <near> the <thing>",
    "he <did> <whose> <thing> <why> <subject> <moved>",
    "no one <modal> <do> the <quality> <things> <when>",
)
