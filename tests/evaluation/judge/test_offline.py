"""The offline judge: agreement with labelled passages, and what is no language."""

import random

import pytest

from dpg.evaluation.judge import NOT_LANGUAGE, OfflineJudge

PASSAGES = {
    "English": [
        "The old bridge over the river had been closed since the flood, so we walked round by the "
        "mill and came home long after dark.",
        "She put the letter back into the drawer and waited for the sound of his boots on the "
        "stairs.",
        "A small company of engineers repaired the pumps before the second storm came.",
        "He was born in a village near the border and studied law before he turned to music.",
        "Nobody in the town could say who had painted the door, or why it was blue.",
        "The museum holds more than two thousand drawings, most of them given by one family.",
        "When the bell rang, the children left their books on the benches and ran into the yard.",
        "I told you that the price would rise, but you did not want to listen to me.",
        "It is the largest lake in the country and supplies water to three cities.",
        "They had no bread, and the fire had gone out, yet the soldiers sang until morning.",
        "The film was praised for its sound and blamed for its ending.",
        "Your brother asked me whether the boat would leave before the tide.",
    ],
    "Spanish": [
        "El viejo puente sobre el río estaba cerrado desde la inundación, así que dimos la vuelta "
        "por el molino y llegamos a casa de noche.",
        "Ella guardó la carta en el cajón y esperó el ruido de sus botas en la escalera.",
        "Un pequeño grupo de ingenieros reparó las bombas antes de que la segunda tormenta llegara "
        "a la costa.",
        "Nació en un pueblo cerca de la frontera y estudió derecho antes de dedicarse a la música.",
        "Nadie en la ciudad sabía quién había pintado la puerta ni por qué era azul.",
        "El museo conserva más de dos mil dibujos, casi todos regalados por una familia.",
        "Cuando sonó la campana, los niños dejaron los libros en los bancos y corrieron al patio.",
        "Te dije que el precio iba a subir, pero no quisiste escucharme.",
        "Es el lago más grande del país y da agua a tres ciudades.",
        "No tenían pan y el fuego se había apagado, pero los soldados cantaron hasta la mañana.",
        "La película fue alabada por su sonido y criticada por su final.",
        "Tu hermano me preguntó si el barco saldría antes de la marea.",
    ],
    "German": [
        "Die alte Brücke über den Fluss war seit der Flut gesperrt, also gingen wir um die Mühle "
        "herum und kamen erst nach Einbruch der Nacht nach Hause.",
        "Sie legte den Brief zurück in die Schublade und wartete auf seine Schritte.",
        "Eine kleine Gruppe von Ingenieuren reparierte die Pumpen, bevor der zweite Sturm die "
        "Küste erreichte.",
        "Er wurde in einem Dorf nahe der Grenze geboren und studierte Recht, bevor er sich der "
        "Musik zuwandte.",
        "Niemand in der Stadt konnte sagen, wer die Tür gestrichen hatte und warum sie blau war.",
        "Das Museum besitzt mehr als zweitausend Zeichnungen, die meisten davon schenkte eine "
        "einzige Familie.",
        "Als die Glocke läutete, ließen die Kinder ihre Bücher auf den Bänken liegen und liefen in "
        "den Hof.",
        "Ich habe dir gesagt, dass der Preis steigen wird, aber du wolltest nicht hören.",
        "Es ist der größte See des Landes und versorgt drei Städte mit Wasser.",
        "Sie hatten kein Brot, und das Feuer war erloschen, doch die Soldaten sangen bis zum "
        "Morgen.",
        "Der Film wurde für seinen Ton gelobt und für sein Ende getadelt.",
        "Dein Bruder fragte mich, ob das Boot vor der Flut ablegen würde.",
    ],
    "Italian": [
        "Il vecchio ponte sul fiume era chiuso dai giorni dell'alluvione, così girammo intorno al "
        "mulino e arrivammo a casa di notte.",
        "Lei rimise la lettera nel cassetto e aspettò il rumore dei suoi stivali sulle scale.",
        "Un piccolo gruppo di ingegneri riparò le pompe prima che la seconda tempesta arrivasse "
        "sulla costa.",
        "Nacque in un paese vicino al confine e studiò legge prima di dedicarsi alla musica.",
        "Nessuno in città sapeva chi avesse dipinto la porta, né perché fosse azzurra.",
        "Il museo conserva più di duemila disegni, quasi tutti donati da una sola famiglia.",
        "Quando suonò la campana, i bambini lasciarono i libri sui banchi e corsero nel cortile.",
        "Ti avevo detto che il prezzo sarebbe salito, ma non hai voluto ascoltarmi.",
        "È il lago più grande del paese e fornisce acqua a tre città.",
        "Non avevano pane e il fuoco si era spento, eppure i soldati cantarono fino al mattino.",
        "Il film fu lodato per il suono e criticato per il finale.",
        "Tuo fratello mi ha chiesto se la barca sarebbe partita prima della marea.",
    ],
    "French": [
        "Le vieux pont sur la rivière était fermé depuis la crue, alors nous avons fait le tour "
        "par le moulin et sommes rentrés après la nuit tombée.",
        "Elle remit la lettre dans le tiroir et attendit le bruit de ses bottes dans l'escalier.",
        "Un petit groupe d'ingénieurs répara les pompes avant que la seconde tempête n'atteigne la "
        "côte.",
        "Il est né dans un village près de la frontière et a étudié le droit avant de se tourner "
        "vers la musique.",
        "Personne dans la ville ne savait qui avait peint la porte, ni pourquoi elle était bleue.",
        "Le musée conserve plus de deux mille dessins, presque tous donnés par une même famille.",
        "Quand la cloche sonna, les enfants laissèrent leurs livres sur les bancs et coururent "
        "dans la cour.",
        "Je t'avais dit que le prix allait monter, mais tu n'as pas voulu m'écouter.",
        "C'est le plus grand lac du pays et il fournit de l'eau à trois villes.",
        "Ils n'avaient pas de pain et le feu s'était éteint, mais les soldats chantèrent jusqu'au "
        "matin.",
        "Le film fut loué pour le son et critiqué pour la fin.",
        "Ton frère m'a demandé si le bateau partirait avant la marée.",
    ],
}

NONSENSE = {
    "key-mash": [
        "asdkjh qweoiu zxmcn askdjh qweiuy zmxnc bqweuyt akjshd",
        "sdfgh jklö asdf jkl sdfkj wer sdfxcv lkjsdf oiwer sdflkj xcvmn",
        "hjkhjkhjk dfgdfg rtyrty vbnvbn hjkl fdsa rewq vcxz",
        "qwertyuiopasdfghjklzxcvbnmqwertzuiop",
        "xkq zrtp wmbv qjj fnrr tkx pzzq vwr ghkl bnmp sdrt xxcv",
        "fjdksla fjdkslaö ghtyru eiwoqp cnvmbx alskdj fhgzt rueiwo",
    ],
    "one word repeated": [
        "the the the the the the the the the the the the",
        "año año año año año año año año año año",
        "Haus, Haus, Haus, Haus, Haus, Haus, Haus.",
        "hahahahahahahahahahahahahaha",
        "della della della della mano della della della della",
        "peut-être peut-être peut-être peut-être peut-être peut-être",
    ],
    "digits": [
        "1234 5678 90 11 22 1999 2004 3.14159 42",
        "664747d3-69bf-46db-b4d0-83649b5423fb",
        "-000000000-0000-0000-0000-000000000000-0000-0000",
        "2011, 2012, 2013, 2014: 17 % / 23 % / 8 %",
        "10:45 11:15 12:30 07.04.1998 (8) [9] 10",
        "0xFF 0x1A 0x3B 255 255 255",
    ],
    "nothing": ["", "   \n\t ", "...", "?!?! -- ** ## ** -- ?!?!", "\ufffd\ufffd\ufffd \ufffd"],
}


@pytest.fixture(scope="module")
def offline():
    return OfflineJudge()


def agreement(judge, labelled):
    """Share of (answer, texts) pairs' texts that get their answer."""
    texts = [(answer, text) for answer, group in labelled for text in group]
    said = judge.classify([text for _, text in texts])
    wrong = [
        (answer, got, text)
        for (answer, text), got in zip(texts, said, strict=True)
        if got != answer
    ]
    return 1 - len(wrong) / len(texts), wrong


def test_offline_agrees_with_every_labelled_passage(offline):
    share, wrong = agreement(offline, PASSAGES.items())
    assert share == 1.0, wrong


def test_offline_agrees_on_the_first_seven_words(offline):
    short = {k: [" ".join(t.split()[:7]) for t in v] for k, v in PASSAGES.items()}
    share, wrong = agreement(offline, short.items())
    assert share == 1.0, wrong


@pytest.mark.parametrize("kind", NONSENSE)
def test_offline_catches(offline, kind):
    share, wrong = agreement(offline, [(NOT_LANGUAGE, NONSENSE[kind])])
    assert share == 1.0, wrong


def test_offline_takes_broken_grammar_for_its_language(offline):
    """Words of a language in random order, 25 at a time: a tiny model's prose at its worst."""
    rng = random.Random(0)
    soup = {}
    for language, texts in PASSAGES.items():
        words = " ".join(texts).replace(".", "").replace(",", "").split()
        soup[language] = [" ".join(rng.sample(words, 25)) for _ in range(40)]
    share, wrong = agreement(offline, soup.items())
    assert share >= 0.995, wrong


def test_offline_takes_misspelt_words_for_their_language(offline):
    """A letter changed in one word of four."""
    rng = random.Random(1)

    def misspell(word):
        i = rng.randrange(len(word))
        return word[:i] + rng.choice("aeioulnrst") + word[i + 1 :] if rng.random() < 0.25 else word

    spelt = {k: [" ".join(map(misspell, t.split())) for t in v] for k, v in PASSAGES.items()}
    share, wrong = agreement(offline, spelt.items())
    assert share >= 0.98, wrong


def test_offline_sees_random_letters_and_invented_syllables():
    rng = random.Random(2)

    def letters():
        return "".join(rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(rng.randint(2, 9)))

    def syllables():
        return "".join(
            rng.choice("bdfgklmnprstvz") + rng.choice("aeiou") for _ in range(rng.randint(1, 4))
        )

    judge = OfflineJudge()
    mash = [" ".join(letters() for _ in range(25)) for _ in range(100)]
    share, wrong = agreement(judge, [(NOT_LANGUAGE, mash)])
    assert share == 1.0, wrong
    invented = [" ".join(syllables() for _ in range(25)) for _ in range(100)]
    share, wrong = agreement(judge, [(NOT_LANGUAGE, invented)])
    assert share >= 0.6, (share, wrong)  # the hardest kind: some of its words exist


def test_offline_a_loop_of_several_words_stays_its_language(offline):
    assert offline.classify(["el año en el año del año en el año y el año en el año"]) == [
        "Spanish"
    ]


def test_offline_answers_keep_the_order_and_the_choices(offline):
    texts = [PASSAGES["French"][0], "", PASSAGES["German"][0]]
    assert offline.classify(texts) == ["French", NOT_LANGUAGE, "German"]
    assert offline.classify([]) == []


def test_offline_reads_text_that_no_encoding_has(offline):
    """A lone surrogate and a NUL, as a byte-level tokenizer may leave them."""
    broken = PASSAGES["Spanish"][0] + " \ud800 \x00"
    assert offline.classify([broken, "\ud800\udfff"]) == ["Spanish", NOT_LANGUAGE]


def test_offline_estimates_nothing(offline):
    assert offline.estimate(["a", "b"]).calls == 0
