"""The judges: agreement with labelled passages, and a real chat-completions server on loopback."""

import json
import logging
import random
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pandas as pd
import pytest

from dpg.errors import DpgError
from dpg.evaluation import judge as judges
from dpg.evaluation.judge import CHOICES, NOT_LANGUAGE, OfflineJudge, OpenAIJudge, judge_table

KEY = "sk-test-0123456789abcdef"

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


def test_judge_table_adds_the_answers_and_leaves_the_rest(offline):
    rollouts = pd.DataFrame({"step": [0, 5], "response": [PASSAGES["English"][1], "17 42 99"]})
    judged = judge_table(rollouts, offline)
    assert judged["judged"].tolist() == ["English", NOT_LANGUAGE]
    assert list(rollouts.columns) == ["step", "response"]
    pd.testing.assert_frame_equal(judged[["step", "response"]], rollouts)


def test_judge_table_counts_answers_outside_the_choices(caplog):
    class Chatty:
        def classify(self, texts):
            return ["Portuguese", "English", "Portuguese"]

    with caplog.at_level(logging.WARNING):
        judged = judge_table(pd.DataFrame({"response": ["a", "b", "c"]}), Chatty())
    assert judges.outside(judged["judged"]) == Counter({"Portuguese": 2})
    assert "2 of 3 answers" in caplog.text
    assert "Portuguese" in caplog.text


def test_judge_table_names_what_is_missing(offline):
    with pytest.raises(DpgError, match=r"'response'.*'text'"):
        judge_table(pd.DataFrame({"text": ["a"]}), offline)
    with pytest.raises(DpgError, match=r"row 1.*NoneType"):
        judge_table(pd.DataFrame({"response": ["a", None]}, dtype=object), offline)


def test_build_knows_two_judges(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    assert isinstance(judges.build("offline"), OfflineJudge)
    assert isinstance(judges.build("openai", cache=tmp_path / "c.jsonl"), OpenAIJudge)
    with pytest.raises(DpgError, match="'offlin'"):
        judges.build("offlin")
    with pytest.raises(DpgError, match="model"):
        judges.build("offline", model="x")


# ------------------------------------------------------------------------- a server on loopback


class ChatServer(ThreadingHTTPServer):
    """Speaks chat completions; `plan(text, nth)` says what the nth request for a text meets."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, answer=lambda text: "Spanish", plan=lambda text, nth: None):
        super().__init__(("127.0.0.1", 0), ChatHandler)
        self.answer, self.plan = answer, plan
        self.requests, self.completions = Counter(), Counter()
        self.prompts, self.running, self.most = [], 0, 0
        self.lock = threading.Lock()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def handle_error(self, request, client_address):
        pass  # a client that hangs up is part of the tests


class ChatHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *args):
        pass

    def reply(self, status, body, headers=()):
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def error(self, status, message, code=None, headers=()):
        self.reply(status, {"error": {"message": message, "code": code}}, headers)

    def do_POST(self):
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        prompt = body["messages"][0]["content"]
        text = prompt.split("Here is the excerpt: ", 1)[1]
        with server.lock:
            server.requests[text] += 1
            nth = server.requests[text]
            server.prompts.append(prompt)
            server.running += 1
            server.most = max(server.most, server.running)
        try:
            self.respond(server, body, text, nth)
        finally:
            with server.lock:
                server.running -= 1

    def respond(self, server, body, text, nth):
        key = self.headers["Authorization"].removeprefix("Bearer ")
        if key != KEY:
            return self.error(401, f"Incorrect API key provided: {key}", "invalid_api_key")
        if body["model"] != "gpt-4.1-nano":
            return self.error(404, f"The model {body['model']} does not exist", "model_not_found")
        fault = server.plan(text, nth)
        if fault == "drop":
            self.close_connection = True
            self.connection.shutdown(2)
            return None
        if fault == "quota":
            return self.error(429, "You exceeded your current quota", "insufficient_quota")
        if fault in (400, 429, 500):
            return self.error(fault, f"trouble with key {key}", None, [("Retry-After", "0.01")])
        if fault == "html":
            return self.reply(200, "welcome")
        if isinstance(fault, float):
            threading.Event().wait(fault)
        with server.lock:
            server.completions[text] += 1
        message = {"role": "assistant", "content": server.answer(text)}
        return self.reply(
            200,
            {
                "id": "x",
                "object": "chat.completion",
                "created": 0,
                "model": body["model"],
                "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
                "usage": {"prompt_tokens": 60, "completion_tokens": 2, "total_tokens": 62},
            },
        )


@pytest.fixture
def serve(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    running = []

    def start(**settings):
        server = ChatServer(**settings)
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        running.append(server)
        return server

    yield start
    for server in running:
        server.shutdown()
        server.server_close()


def asking(server, tmp_path, **settings):
    settings = {"backoff": 0.01, **settings}
    return OpenAIJudge(tmp_path / "cache.jsonl", base_url=server.url, **settings)


@pytest.mark.slow
@pytest.mark.integration
def test_a_thousand_texts_through_trouble_each_paid_once(serve, tmp_path):
    """5 % delayed, 5 % 429 or 500 at first, one connection dropped; then a run without a call."""
    texts = [f"text {i} word{i % 7}" for i in range(1000)]
    names = list(CHOICES)
    troubled = random.Random(0).sample(texts, 101)
    delayed, failing, dropped = set(troubled[:50]), set(troubled[50:100]), troubled[100]

    def plan(text, nth):
        if text in delayed:
            return 0.2
        if text in failing and nth == 1:
            return 429 if int(text.split()[1]) % 2 else 500
        return "drop" if text == dropped and nth == 1 else None

    def answer(text):
        return names[int(text.split()[1]) % 6]

    server = serve(answer=answer, plan=plan)
    asked = texts + texts[:100]  # equal texts are one call
    answers = asking(server, tmp_path).classify(asked)
    assert answers == [answer(text) for text in asked]
    assert server.completions == Counter(texts)
    assert server.requests.total() == 1000 + 50 + 1
    assert 1 < server.most <= 16

    again = asking(server, tmp_path)
    assert again.estimate(asked).calls == 0
    assert again.classify(asked) == answers
    assert server.requests.total() == 1051


def test_the_prompt_is_appendix_f(serve, tmp_path):
    server = serve()
    asking(server, tmp_path).classify(["¿Qué hay <aquí>?"])
    assert server.prompts == [
        "Classify the language of the following excerpt.\n"
        "Your answer must be the best choice of:\n"
        "English, Spanish, German, Italian, French, Not Natural Language.\n"
        "Output only your final choice with no explanation.\n"
        "Here is the excerpt: ¿Qué hay <aquí>?"
    ]


def test_answers_are_matched_to_the_choices_or_kept(serve, tmp_path):
    said = {"a": "Spanish.", "b": " french\n", "c": "Portuguese", "d": "**Italian**", "e": ""}
    server = serve(answer=said.get)
    answers = asking(server, tmp_path).classify(list(said))
    assert answers == ["Spanish", "French", "Portuguese", "Italian", ""]
    assert judges.outside(answers) == Counter({"Portuguese": 1, "": 1})


def test_a_run_that_failed_goes_on_where_it_stopped(serve, tmp_path):
    broken = {"on": True}
    server = serve(plan=lambda text, nth: 500 if text == "t30" and broken["on"] else None)
    texts = [f"t{i}" for i in range(40)]
    with pytest.raises(DpgError, match=r"3 attempts.*HTTP 500.*run again"):
        asking(server, tmp_path, attempts=3, concurrency=4).classify(texts)
    broken["on"] = False
    assert asking(server, tmp_path).classify(texts) == ["Spanish"] * 40
    assert server.completions == Counter(texts)


def test_a_torn_last_line_is_passed_over_and_asked_again(serve, tmp_path):
    server = serve()
    asking(server, tmp_path).classify(["a", "b", "c"])
    cache = tmp_path / "cache.jsonl"
    cache.write_bytes(cache.read_bytes()[:-25])
    assert asking(server, tmp_path).classify(["a", "b", "c", "d"]) == ["Spanish"] * 4
    assert server.completions.total() == 5
    assert asking(server, tmp_path).estimate(["a", "b", "c", "d"]).calls == 0


@pytest.mark.parametrize("length", [0, 1, 5, 60])
def test_a_kill_during_the_first_write_leaves_a_usable_cache(serve, tmp_path, length):
    server = serve()
    asking(server, tmp_path).classify(["a"])
    cache = tmp_path / "cache.jsonl"
    cache.write_bytes(cache.read_bytes()[:length])
    assert asking(server, tmp_path).classify(["a"]) == ["Spanish"]
    assert asking(server, tmp_path).estimate(["a"]).calls == 0


def test_the_cache_holds_no_text_and_another_model_is_asked_anew(serve, tmp_path):
    server = serve()
    judge = asking(server, tmp_path)
    judge.classify(["a secret text"])
    assert "secret" not in (tmp_path / "cache.jsonl").read_text()
    other = asking(server, tmp_path, model="other", prices=(1.0, 2.0))
    assert other.estimate(["a secret text"]).calls == 1


def test_two_judges_may_write_one_cache(serve, tmp_path):
    server = serve()
    texts = [f"t{i}" for i in range(60)]
    first, second = asking(server, tmp_path), asking(server, tmp_path)
    with ThreadPoolExecutor(2) as pool:
        list(
            pool.map(
                lambda pair: pair[0].classify(pair[1]), [(first, texts[:40]), (second, texts[20:])]
            )
        )
    assert asking(server, tmp_path).estimate(texts).calls == 0


def test_a_file_that_is_no_cache_is_refused(serve, tmp_path):
    server = serve()
    for content in ("step,loss\n1,2\n", '{"step": 1}\n', "[1, 2]\n", "17\n"):
        (tmp_path / "cache.jsonl").write_text(content)
        with pytest.raises(DpgError, match=r"cache\.jsonl is not a cache"):
            asking(server, tmp_path)
        assert (tmp_path / "cache.jsonl").read_text() == content


def test_estimate_counts_without_a_call(serve, tmp_path):
    server = serve()
    judge = asking(server, tmp_path)
    judge.classify(["known"])
    made = server.requests.total()
    estimate = judge.estimate(["known", "new", "new", "newer"])
    assert (estimate.texts, estimate.calls, estimate.completion_tokens) == (4, 2, 10)
    assert estimate.prompt_tokens >= 2 * 55  # Appendix F alone is about 50 tokens
    expected = (0.10 * estimate.prompt_tokens + 0.40 * 10) / 1e6
    assert estimate.cost == pytest.approx(expected, rel=1e-12)
    assert "2 calls" in str(estimate)
    assert server.requests.total() == made


def test_max_cost_stops_before_the_first_call(serve, tmp_path):
    server = serve()
    with pytest.raises(DpgError, match=r"1,000 calls.*max_cost = \$0\.0010"):
        asking(server, tmp_path, max_cost=0.001).classify([f"t{i}" for i in range(1000)])
    assert server.requests.total() == 0


def test_max_cost_stops_when_the_server_counts_more_than_estimated(serve, tmp_path):
    server = serve()
    prices = (100.0, 100_000.0)  # an answer of 2 tokens costs 0.206; 5 are estimated
    texts = [f"t{i}" for i in range(10)]
    probe = asking(server, tmp_path, prices=prices)
    limit = probe.estimate(texts).cost
    judge = asking(server, tmp_path, prices=(100.0, 100_000.0), max_cost=limit, concurrency=1)
    judge.spent = limit / 2  # as after a dearer start
    with pytest.raises(DpgError, match="max_cost"):
        judge.classify(texts)
    with pytest.raises(DpgError, match=r"next call would pass max_cost.*kept"):
        judge._ask_all(texts)
    assert 0 < server.completions.total() < 10
    assert judge.spent <= limit


def test_spending_is_counted_from_the_servers_tokens(serve, tmp_path):
    judge = asking(serve(), tmp_path)
    judge.classify(["a", "b", "a"])
    assert judge.spent == pytest.approx(2 * (60 * 0.10 + 2 * 0.40) / 1e6, rel=1e-12)


def test_max_cost_counts_what_earlier_judges_with_the_cache_paid(serve, tmp_path):
    server = serve()
    texts = [f"t{i}" for i in range(10)]
    first = asking(server, tmp_path)
    first.classify(texts)
    again = asking(server, tmp_path, max_cost=first.spent * 1.01)
    assert again.spent == pytest.approx(first.spent, rel=1e-12)
    assert again.classify(texts) == ["Spanish"] * 10  # nothing is to be paid
    with pytest.raises(DpgError, match=r"would pass max_cost.*spent so far"):
        again.classify(["another text"])
    assert server.completions.total() == 10


def test_an_estimate_needs_no_key(tmp_path, monkeypatch, offline):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    judge = OpenAIJudge(tmp_path / "cache.jsonl", calls=False)
    assert judge.estimate(["a", "b"]).calls == 2
    with pytest.raises(DpgError, match="only estimates"):
        judge.classify(["a"])
    assert offline.estimate(["a", "b"]).calls == 0


def test_the_command_prints_an_estimate_and_asks_nobody(tmp_path, monkeypatch):
    from typer.testing import CliRunner

    from dpg.cli import app

    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    pd.DataFrame({"response": ["uno", "dos", "uno"]}).to_parquet(tmp_path / "validation.parquet")
    monkeypatch.chdir(tmp_path)
    paper = Path(__file__).parents[2] / "config" / "paper.yaml"
    arguments = ["judge", "-c", str(paper), "--run", str(tmp_path), "--estimate"]
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert done.output.startswith("3 texts: 2 calls, about ")
    assert "$0.00" in done.output
    assert [path.name for path in tmp_path.iterdir()] == ["validation.parquet"]


def test_an_unknown_price_needs_prices_for_max_cost(serve, tmp_path):
    server = serve()
    assert asking(server, tmp_path, model="local").estimate(["a"]).cost is None
    with pytest.raises(DpgError, match=r"'local'.*prices"):
        asking(server, tmp_path, model="local", max_cost=1.0)


@pytest.mark.parametrize("value", [None, "", "  "])
def test_no_key_names_the_variable_and_the_offline_judge(tmp_path, monkeypatch, value):
    if value is None:
        monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    else:
        monkeypatch.setenv("OPENAI_API_KEY", value)
    with pytest.raises(DpgError, match=r"OPENAI_API_KEY is not set.*offline judge"):
        OpenAIJudge(tmp_path / "cache.jsonl")


def shown(error):
    """Everything a traceback would print of an error."""
    import traceback

    return "".join(traceback.format_exception(error))


def test_a_refused_key_is_never_shown(serve, tmp_path, monkeypatch, caplog):
    server = serve()
    monkeypatch.setenv("OPENAI_API_KEY", "sk-wrong-42")
    with (
        caplog.at_level(logging.DEBUG),
        pytest.raises(DpgError, match=r"refuses the key in OPENAI_API_KEY.*401") as caught,
    ):
        asking(server, tmp_path).classify(["a"])
    assert "sk-wrong-42" not in shown(caught.value)
    assert "sk-wrong-42" not in caplog.text
    assert server.requests.total() == 1  # no second try


def test_no_key_in_logs_or_cache(serve, tmp_path, caplog):
    server = serve(plan=lambda text, nth: 500 if nth == 1 else None)
    with caplog.at_level(logging.DEBUG):
        judge = asking(server, tmp_path)
        judge.classify(["a", "b"])
    assert "attempt 1 of" in caplog.text
    for text in (
        caplog.text,
        repr(judge),
        repr(vars(judge)),
        (tmp_path / "cache.jsonl").read_text(),
    ):
        assert KEY not in text


def test_an_unknown_model_is_named(serve, tmp_path):
    server = serve()
    with pytest.raises(DpgError, match=r"does not know the model 'gpt-99'.*judge\.model"):
        asking(server, tmp_path, model="gpt-99").classify(["a"])
    assert server.requests.total() == 1


def test_a_used_up_quota_is_not_tried_again(serve, tmp_path):
    server = serve(plan=lambda text, nth: "quota")
    with pytest.raises(DpgError, match="quota"):
        asking(server, tmp_path).classify(["a"])
    assert server.requests.total() == 1


def test_a_bad_request_says_why_without_the_key(serve, tmp_path):
    server = serve(plan=lambda text, nth: 400)
    with pytest.raises(DpgError, match=r"HTTP 400.*trouble with key \*\*\*") as caught:
        asking(server, tmp_path).classify(["a"])
    assert KEY not in shown(caught.value)


def test_a_server_of_another_kind_is_told(serve, tmp_path):
    server = serve(plan=lambda text, nth: "html")
    with pytest.raises(DpgError, match="not with a chat completion"):
        asking(server, tmp_path).classify(["a"])


def test_no_server_at_all(serve, tmp_path):
    server = serve()
    url = server.url
    server.shutdown()
    server.server_close()
    judge = OpenAIJudge(tmp_path / "c.jsonl", base_url=url, attempts=2, backoff=0.01)
    with pytest.raises(DpgError, match=r"2 attempts.*APIConnectionError"):
        judge.classify(["a"])


def test_back_off_doubles_and_retry_after_is_followed(serve, tmp_path):
    waits = []
    server = serve(plan=lambda text, nth: ["drop", "drop", "drop", 429, None][nth - 1])
    judge = asking(server, tmp_path, backoff=1.0, sleep=waits.append)
    assert judge.classify(["a"]) == ["Spanish"]
    assert waits[3] == 0.01
    for nth, waited in enumerate(waits[:3]):
        assert 2**nth / 2 <= waited <= 2**nth


@pytest.mark.parametrize("name", ["concurrency", "attempts"])
def test_counts_must_be_positive(serve, tmp_path, name):
    with pytest.raises(DpgError, match=f"{name} must be at least 1"):
        asking(serve(), tmp_path, **{name: 0})
