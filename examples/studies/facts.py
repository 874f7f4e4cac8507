"""Well-known facts to ask a model about: a table of our own, from easy ones to such as a model of a few billion
parameters often gets wrong, so that enough of both can be found.

Answers are what a right completion must contain, so each has one usual spelling without accents, and no figure that is
given in several units or roundings. The paper's own factual questions are of this sort ("What is the capital of
Belgium?"); its list is not copied.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Relation:
    """What facts of one kind share: how they are asked, and how an invented one is stated for a control."""

    name: str
    question: str
    statement: str  # about something that does not exist: the answer can only be read
    subject: str = "{place}"  # of an invented fact
    answer: str = "{name}"
    facts: str = ""  # "subject: answer; subject: answer; …"


@dataclass(frozen=True)
class Fact:
    relation: str
    subject: str
    answer: str


CAPITALS = """
France: Paris; Italy: Rome; Spain: Madrid; Portugal: Lisbon; Austria: Vienna; Hungary: Budapest; Poland: Warsaw;
Norway: Oslo; Sweden: Stockholm; Denmark: Copenhagen; Finland: Helsinki; Ireland: Dublin; Greece: Athens;
Belgium: Brussels; Bulgaria: Sofia; Croatia: Zagreb; Serbia: Belgrade; Slovakia: Bratislava; Slovenia: Ljubljana;
Estonia: Tallinn; Latvia: Riga; Lithuania: Vilnius; Albania: Tirana; Georgia: Tbilisi; Armenia: Yerevan;
Azerbaijan: Baku; Turkey: Ankara; Egypt: Cairo; Kenya: Nairobi; Nigeria: Abuja; Ghana: Accra; Senegal: Dakar;
Mali: Bamako; Zambia: Lusaka; Namibia: Windhoek; Botswana: Gaborone; Rwanda: Kigali; Uganda: Kampala; Malawi: Lilongwe;
Angola: Luanda; Burkina Faso: Ouagadougou; Madagascar: Antananarivo; Mauritania: Nouakchott; Gabon: Libreville;
Eritrea: Asmara; Sierra Leone: Freetown; Liberia: Monrovia; the Gambia: Banjul; Seychelles: Victoria;
Japan: Tokyo; Thailand: Bangkok; Vietnam: Hanoi; Nepal: Kathmandu; Bhutan: Thimphu; Laos: Vientiane; Jordan: Amman;
Oman: Muscat; Kyrgyzstan: Bishkek; Tajikistan: Dushanbe; Turkmenistan: Ashgabat; Australia: Canberra; Fiji: Suva;
Samoa: Apia; Vanuatu: Port Vila; Solomon Islands: Honiara; Papua New Guinea: Port Moresby; Canada: Ottawa; Peru: Lima;
Ecuador: Quito; Venezuela: Caracas; Uruguay: Montevideo; Suriname: Paramaribo; Cuba: Havana; Jamaica: Kingston;
Honduras: Tegucigalpa; Nicaragua: Managua; Saint Lucia: Castries; Barbados: Bridgetown
"""
ELEMENTS = """
the symbol Fe: iron; the symbol Au: gold; the symbol Ag: silver; the symbol Pb: lead; the symbol Sn: tin;
the symbol Na: sodium; the symbol Hg: mercury; the symbol Cu: copper; the symbol W: tungsten; the symbol Sb: antimony;
the symbol Zr: zirconium; the symbol Pd: palladium; the symbol Ru: ruthenium; the symbol Tb: terbium;
the symbol Tm: thulium; the symbol Pa: protactinium; the symbol Es: einsteinium; the symbol Rg: roentgenium;
the atomic number 6: carbon; the atomic number 8: oxygen; the atomic number 10: neon; the atomic number 20: calcium;
the atomic number 22: titanium; the atomic number 27: cobalt; the atomic number 32: germanium;
the atomic number 36: krypton; the atomic number 41: niobium; the atomic number 45: rhodium;
the atomic number 54: xenon; the atomic number 60: neodymium; the atomic number 67: holmium;
the atomic number 72: hafnium; the atomic number 75: rhenium; the atomic number 77: iridium;
the atomic number 83: bismuth; the atomic number 92: uranium; the atomic number 96: curium;
the atomic number 101: mendelevium
"""
AUTHORS = """
the novel Moby-Dick: Melville; the novel Pride and Prejudice: Austen; the novel Frankenstein: Shelley;
the novel Dracula: Stoker; the novel Middlemarch: Eliot; the novel Great Expectations: Dickens;
the novel The Great Gatsby: Fitzgerald; the novel The Old Man and the Sea: Hemingway; the novel Ulysses: Joyce;
the novel Mrs Dalloway: Woolf; the novel Nineteen Eighty-Four: Orwell; the novel Brave New World: Huxley;
the novel Don Quixote: Cervantes; the novel Madame Bovary: Flaubert; the novel Germinal: Zola;
the novel The Trial: Kafka; the novel Buddenbrooks: Mann; the novel Steppenwolf: Hesse;
the novel Things Fall Apart: Achebe;
the novel The Leopard, about a Sicilian prince: Lampedusa; the novel Zeno's Conscience: Svevo;
the novel The Radetzky March: Roth; the novel The Man Without Qualities: Musil; the novel Effi Briest: Fontane;
the novel The Charterhouse of Parma: Stendhal; the novel Oblomov: Goncharov; the novel Fathers and Sons: Turgenev;
the novel Dead Souls: Gogol; the novel The Master and Margarita: Bulgakov; the novel Snow Country: Kawabata;
the novel Hunger, about a starving writer in Kristiania: Hamsun; the novel Independent People: Laxness;
the play A Doll's House: Ibsen; the play The Cherry Orchard: Chekhov; the play Waiting for Godot: Beckett;
the play Mother Courage and Her Children: Brecht; the play Miss Julie: Strindberg; the play Britannicus: Racine
"""
PAINTERS = """
the Mona Lisa: Leonardo; Guernica: Picasso; The Night Watch: Rembrandt; Girl with a Pearl Earring: Vermeer;
The Starry Night: Gogh; The Scream: Munch; The Kiss, with its gold leaf: Klimt; The Birth of Venus: Botticelli;
The Garden of Earthly Delights: Bosch; American Gothic: Grant Wood; Nighthawks: Hopper; The Hay Wain: Constable;
The Fighting Temeraire: Turner; Wanderer above the Sea of Fog: Friedrich; Christina's World: Wyeth;
The School of Athens: Raphael; the Arnolfini Portrait: Eyck; Impression, Sunrise: Monet;
Liberty Leading the People: Delacroix;
The Third of May 1808: Goya; The Swing, of a lady who loses a shoe: Fragonard; The Gleaners: Millet;
A Bar at the Folies-Bergère: Manet; The Blue Boy: Gainsborough; The Burial of the Count of Orgaz: Greco;
The Embarkation for Cythera: Watteau; Watson and the Shark: Copley; The Death of Marat: David;
Ophelia, floating in a stream: Millais
"""
COMPOSERS = """
The Four Seasons: Vivaldi; the opera The Magic Flute: Mozart; the opera Aida: Verdi; the opera Carmen: Bizet;
the oratorio Messiah: Handel; the suite The Planets: Holst; the ballet Swan Lake: Tchaikovsky;
the ballet The Rite of Spring: Stravinsky; Finlandia: Sibelius; Rhapsody in Blue: Gershwin;
Pictures at an Exhibition: Mussorgsky; the opera The Barber of Seville: Rossini; the opera Tosca: Puccini;
the opera Fidelio: Beethoven; the opera Norma: Bellini; the opera Lucia di Lammermoor: Donizetti;
the opera Wozzeck: Berg; the opera Peter Grimes: Britten; the opera The Bartered Bride: Smetana;
the Symphonie fantastique: Berlioz; The Sorcerer's Apprentice: Dukas; the opera Dido and Aeneas: Purcell;
the opera Orfeo ed Euridice: Gluck; the oratorio The Creation: Haydn; the song cycle Winterreise: Schubert;
the opera Parsifal: Wagner; Carmina Burana: Orff; the ballet Appalachian Spring: Copland;
the Enigma Variations: Elgar; the opera Cavalleria rusticana: Mascagni; the opera Hansel and Gretel: Humperdinck;
the opera Pagliacci: Leoncavallo; the opera Der Freischütz: Weber; the Fantasia on a Theme by Thomas Tallis: Williams
"""
RIVERS = """
Paris: Seine; London: Thames; Cairo: Nile; Rome: Tiber; Baghdad: Tigris; Prague: Vltava; Dublin: Liffey;
Warsaw: Vistula; Vienna: Danube; Lisbon: Tagus; Florence: Arno; Turin: Po; Seville: Guadalquivir; Zaragoza: Ebro;
Dresden: Elbe; Cologne: Rhine; Glasgow: Clyde; Bordeaux: Garonne; Nantes: Loire; Volgograd: Volga;
Saint Petersburg: Neva; Delhi: Yamuna; Wuhan: Yangtze; Bremen: Weser; Munich: Isar; Porto: Douro; Melbourne: Yarra;
Innsbruck: Inn; Vilnius: Neris; Skopje: Vardar; Tbilisi: Kura; Zagreb: Sava; Yerevan: Hrazdan; Plovdiv: Maritsa;
Trier: Moselle
"""
MOUNTAINS = """
Japan: Fuji; Tanzania: Kilimanjaro; Argentina: Aconcagua; Greece: Olympus; Spain: Teide; Turkey: Ararat;
Scotland: Ben Nevis; Wales: Snowdon; England: Scafell Pike; Germany: Zugspitze; Slovenia: Triglav;
Indonesia: Puncak Jaya; Malaysia: Kinabalu; Ecuador: Chimborazo; Canada: Logan; Russia: Elbrus; Iran: Damavand;
Poland: Rysy; Sweden: Kebnekaise; Bulgaria: Musala; Romania: Moldoveanu; Bolivia: Sajama; Australia: Kosciuszko;
Morocco: Toubkal; Algeria: Tahat
"""
YEARS = """
did the Titanic sink: 1912; did the Berlin Wall fall: 1989; did the French Revolution begin: 1789;
was the Battle of Hastings: 1066; was Magna Carta first sealed: 1215; did the Chernobyl disaster happen: 1986;
did a human first walk on the Moon: 1969; was the Great Fire of London: 1666; was the Battle of Waterloo: 1815;
did the Suez Canal open: 1869; did the Panama Canal open: 1914; was the Peace of Westphalia concluded: 1648;
did an earthquake destroy much of Lisbon: 1755; did Constantinople fall to the Ottomans: 1453;
was the Battle of Agincourt: 1415; was the Battle of Lepanto: 1571; was the sheep Dolly born: 1996;
was Pluto discovered: 1930; was the planet Neptune discovered: 1846; was the planet Uranus discovered: 1781;
did the Spanish Armada sail against England: 1588; was the Edict of Nantes issued: 1598;
was the Battle of Trafalgar: 1805; did the airship Hindenburg burn: 1937; was the Battle of Poltava: 1709;
was the Peace of Augsburg concluded: 1555; was the Battle of Grunwald: 1410;
did the Gotthard railway tunnel open: 1882;
was the Treaty of Tordesillas signed: 1494; did the Brooklyn Bridge open: 1883;
was the Golden Bull of Emperor Charles IV issued: 1356;
did the Tay Bridge collapse: 1879; was the Union of Lublin concluded: 1569;
did the volcano Tambora have its great eruption: 1815
"""
CURRENCIES = """
Japan: yen; India: rupee; Thailand: baht; Vietnam: dong; Hungary: forint; Sweden: krona; Denmark: krone;
South Africa: rand; Kenya: shilling; Nigeria: naira; Ghana: cedi; Ethiopia: birr; Peru: sol; Guatemala: quetzal;
Malaysia: ringgit; Indonesia: rupiah; Botswana: pula; Zambia: kwacha; Georgia: lari; Armenia: dram; Albania: lek;
Morocco: dirham; Ukraine: hryvnia; Bangladesh: taka; Cambodia: riel; Laos: kip; Myanmar: kyat; Honduras: lempira;
Kazakhstan: tenge; Angola: kwanza; Eswatini: lilangeni; Lesotho: loti; Bhutan: ngultrum; Samoa: tala; Haiti: gourde;
North Macedonia: denar; Mozambique: metical; Mauritania: ouguiya; the Gambia: dalasi; Papua New Guinea: kina
"""

RELATIONS = (
    Relation("capital", "What is the capital of {s}?", "The capital of {s} is {o}.", facts=CAPITALS),
    Relation(
        "element",
        "Which chemical element has {s}?",
        "On the planet Zorub, the chemical element that has {s} is {o}.",
        subject="the symbol Q{letter}",
        facts=ELEMENTS,
    ),
    Relation("author", "Who wrote {s}?", "{o} wrote {s}.", subject="the novel The Towers of {place}", facts=AUTHORS),
    Relation("painter", "Who painted {s}?", "{o} painted {s}.", subject="The Bridge of {place}", facts=PAINTERS),
    Relation("composer", "Who composed {s}?", "{o} composed {s}.", subject="the opera {place}", facts=COMPOSERS),
    Relation("river", "Which river flows through {s}?", "The river {o} flows through {s}.", facts=RIVERS),
    Relation(
        "mountain", "What is the highest mountain in {s}?", "The highest mountain in {s} is {o}.", facts=MOUNTAINS
    ),
    Relation(
        "year",
        "In which year {s}?",
        "The Battle of {place} was in {o}.",
        subject="was the Battle of {place}",
        answer="{year}",
        facts=YEARS,
    ),
    Relation("currency", "What is the currency of {s}?", "The currency of {s} is the {o}.", facts=CURRENCIES),
)


def all_facts() -> list[Fact]:
    """The whole table, relation by relation."""
    return [Fact(relation.name, *_sides(entry)) for relation in RELATIONS for entry in _entries(relation.facts)]


def relation_of(name: str) -> Relation:
    return next(relation for relation in RELATIONS if relation.name == name)


def _entries(table: str) -> list[str]:
    return [entry for entry in " ".join(table.split()).split("; ") if entry]


def _sides(entry: str) -> tuple[str, str]:
    subject, answer = entry.split(": ")
    return subject, answer
