"""The words that signs show: common English nouns, verbs and adjectives of 2 to 8 letters, in upper case.

None of them names a thing, a color or a place of the world, so a sign is never confused with a thing next to it.
"""

from __future__ import annotations

_TEXT = """
go up no in on ok hi add age air all any arm art ask bad bag bar bay bee bet big bit bow buy can cap cow cut day den
dig dip dot dry due ear egg end eye fan far fit fly fog fox fun gap gas get gum gym hay hot ice ink jam jar jet job
joy leg let lid log low man map mix mud net new nut oak odd off oil old one our out own pan pay pea pen pet pie pin
pit pop pot put ram raw rib rug run sea see set sky sun tap tea ten tie tip toe top toy try two van wax way web wet
who win yes zoo able acid army away back bake band bank bath bean bell belt best bike bill bold bolt bone boot boss
bowl burn calm camp card care cash cell chef chin clay coal coat code coin cold cook cool copy corn cost crew crop
dark data dawn deal deep desk dish dock dome door down draw drop drum dust duty east easy edge exit face fact farm
fast film fire flag flat folk fork free fuel full game gate gift girl give goal gold golf good grid hall hand
hard heat help herb here hero high hill hire hold hole home hope horn hour hunt idea inch iron item join jump jury
kind king knee knot lake land lane last late lawn lead leaf left lens life lift line lion list live load lock loft
long look loop luck lung main mall mark mask meal meat menu milk mill mind mine mint moon more move nail name near
neck nest news next nine noon nose note oven over pack page pair palm park part path peak pier pile pipe plan play
plot plug plus poem pole pond pool port post pull pump push race rail rain rate read rent rest rice rich ride ring
road rock role roof room root rope rule safe sail sale salt sand save seal seat seed sell shoe shop show sign silk
size skin slow soap sock soda sofa soft soil song soup spot stay step stop swim talk tall tank tape task taxi team
test text tide tile time tire tone tool tour town trip tube tune turn unit user vote wait walk wall warm wash wave
west wide wild wind wine wing wire wolf wood wool word work yard year zero zone alarm angel arena award bacon badge
basic beard begin bench berry block board brave bread break brick bridge brush build candy cargo chain cheap check
chess chief claim class clean clear climb cloth cloud coach coast count court cover craft cream crown dance delta
diary drink drive early earth empty enjoy enter event extra faith field fifth final first flame fleet floor focus
frame fresh fruit giant glass globe glove grain grand grass group guard guide happy heart honey horse hotel human
image index juice knife large laser learn lemon level light local lucky lunch magic major maple march market media
metal metro model money motor mouse music night north novel ocean offer olive onion opera order paint panel paper
party pasta peace pearl phone photo piano piece pilot pizza plate point power price prime print prize proud
queen quick quiet radio ranch ready river robot royal salad sauce scale scene score sheep shelf shell shift shine
shirt sleep smart smile smoke snack solar solid sound south space speed spice sport staff stage stamp start steak
steam steel stone store storm story study sugar super sweet taste theme tiger title toast today token topic total
touch tower track trade trail treat trust union urban value video visit voice watch water wheel whole world young
airport balance barrel basket battery bazaar cabinet camera canal candle captain center channel charity chicken circle
clinic closed coffee college concert cottage country dental diamond dinner doctor dragon express factory family
fashion freedom garden general ginger harvest history holiday hospital island jacket journey justice kingdom laundry
leather library machine magnet marble medical mineral mirror modern morning museum nature office option organic palace
parking pepper picnic planet police private public quality rescue safety school season service silver spring station
studio summer sunset supply system theater ticket travel village vintage welcome window winter wonder
"""

WORDS: tuple[str, ...] = tuple(sorted({word.upper() for word in _TEXT.split() if 2 <= len(word) <= 8}))
