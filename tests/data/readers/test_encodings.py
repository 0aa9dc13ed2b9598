"""Texts in the older encodings of their languages; the texts are written for this test."""

from __future__ import annotations

import random
import unicodedata

import pytest

from llm.data.readers.base import Rejected
from llm.data.readers.decoding import decode

LATIN_1 = "cp1252 iso8859-1 iso8859-15 cp850 cp858 mac_roman"
LATIN_2 = "cp1250 iso8859-2 cp852 mac_latin2"
BALTIC = "cp1257 iso8859-13 iso8859-4 cp775"
# language: (encodings, text)
LANGUAGES = {
    "fr": (
        LATIN_1 + " iso8859-9",
        "À la fin de l'été, la bibliothécaire a rangé les vieux registres dans la réserve. Elle n'a gardé près d'elle "
        "qu'un cahier où quelqu'un avait noté, année après année, la date des premières gelées. « C'était mon père », "
        "disait-elle à ceux qui voulaient savoir, et déjà elle tournait la page.",
    ),
    "de": (
        LATIN_1 + " cp437 iso8859-10",
        "Für die Brücke über den Fluß wurden im Frühjahr größere Steine gebraucht, als man gewöhnlich in der Nähe "
        "findet. Die Männer fuhren täglich bis in die höher gelegenen Täler, und abends hörte man sie müde, aber "
        "fröhlich zurückkehren.",
    ),
    "es": (
        LATIN_1 + " cp437",
        "El año pasado mi compañera volvió a la montaña donde pasó su niñez. ¿Quién vivía aún en aquella casa pequeña? "
        "Nadie lo sabía con certeza; según un pastor, la última familia se marchó después de la gran sequía, cuando el "
        "pozo se quedó vacío.",
    ),
    "pt": (
        LATIN_1 + " cp860",
        "A estação da região não tinha condições de receber mais comboios, e a decisão de a ampliar só foi tomada "
        "depois de três reuniões. Também havia quem não quisesse nenhuma alteração: diziam que o coração da vila era "
        "aquele pequeno jardim à sombra.",
    ),
    "it": (
        LATIN_1 + " cp437",
        "La città era già sveglia, perché il mercato comincia presto. Più tardi, però, nessuno ricordava chi avesse "
        "portato le pesche; c'è chi dice che fosse un contadino dell'altra valle, e chi giura che la verità non si "
        "saprà mai, né oggi né lunedì.",
    ),
    "sv": (
        LATIN_1 + " iso8859-4",
        "När isen låg på sjön gick barnen över till ön för att hälsa på gamla släktingar. Där fanns det alltid något "
        "gott att äta, och på kvällen berättade morfar om åren då båtarna ännu gick hela vägen till havet.",
    ),
    "da": (
        LATIN_1 + " cp865",
        "På øen er der kun få huse, og om vinteren går færgen ikke hver dag. Så må man nøjes med det brød, man selv "
        "bager, og håbe på, at vejret bliver bedre, før mælken slipper op. Børnene synes, det er hyggeligt.",
    ),
    "fi": (
        LATIN_1,
        "Järven takana asui mies, jolla oli pieni myymälä. Hän möi kyläläisille jyviä, työkaluja ja silloin tällöin "
        "kenkiä. Syksyllä, kun yöt pitenivät, hän sulki ovensa ja lähti veljensä luokse pitkälle pohjoiseen päin.",
    ),
    "is": (
        "cp1252 iso8859-1 mac_iceland cp861",
        "Það var einu sinni bóndi sem átti þrjár dætur og vildi að þær lærðu allar að lesa. Hann keypti því bók í "
        "næsta þorpi, og á hverju kvöldi sátu þau saman við eldinn og æfðu sig þar til ljósið dó út.",
    ),
    "nl": (
        LATIN_1 + " cp437",
        "De coördinatie van het project lag bij één persoon, die geen idee had hoeveel ruïnes er in de omgeving waren. "
        "Toen de financiële middelen op waren, bleef er weinig over dan een café met foto's van vroegere reünies.",
    ),
    "pl": (
        LATIN_2,
        "Pewnego dnia młynarz zauważył, że koło przestało się kręcić. Zeszedł więc nad rzekę i zobaczył, że ktoś "
        "ułożył w poprzek nurtu gałęzie i żółte liście. Źródło było jednak czyste, więc usiadł na chwilę, żeby "
        "pomyśleć, co dalej.",
    ),
    "cs": (
        LATIN_2,
        "Každý večer přicházel starý učitel k řece a díval se, jak voda pomalu klesá. Říkal, že příští rok už bude "
        "most hotový, ale děti mu nevěřily, protože to slýchaly od té doby, co začaly chodit do školy.",
    ),
    "hu": (
        LATIN_2,
        "A szőlőhegy fölött már őszi köd ült, amikor a két testvér elindult a városba. Útközben egy öregasszony "
        "kért tőlük segítséget, és ők gyűjtöttek neki tűzifát. Később ezért kaptak tőle egy különös, régi kulcsot.",
    ),
    "sl": (
        LATIN_2,
        "Na koncu vasi stoji hiša, v kateri že dolgo nihče več ne živi. Pravijo, da je nekoč v njej šivilja šivala "
        "najlepše obleke, dokler ni nekega jutra odšla čez mejo in se ni več vrnila. Ključ še vedno visi na žeblju.",
    ),
    "ro": (
        "cp1250 iso8859-2 cp852",
        "În fiecare dimineaţă, înainte să răsară soarele, brutarul aşeza pâinea pe rafturi şi îşi făcea o cafea. "
        "Oamenii veneau apoi unul câte unul, îi dădeau bună ziua şi îi povesteau ce se mai întâmplase peste noapte.",
    ),
    "et": (
        BALTIC + " cp1252",
        "Õhtul jõudsid nad lõpuks külla, kus neid ootas vana sõber. Ta oli küpsetanud leiba ja toonud keldrist "
        "mõdu. Räägiti pikalt möödunud aegadest, kuni öösel hakkas sadama ning tuli jäi ahjus üksi hõõguma.",
    ),
    "lv": (
        BALTIC,
        "Vecā māja stāvēja ceļa malā, un tās logi vienmēr bija tīri. Katru rītu saimniece gāja uz aku pēc ūdens, bet "
        "vakarā sēdēja uz sliekšņa un šķetināja dziju. Bērni zināja, ka viņai var jautāt par jebko.",
    ),
    "lt": (
        BALTIC,
        "Žvejys kiekvieną rytą išplaukdavo į ežerą, nors žuvų jame beveik nebebuvo. Jis sakė, kad svarbiausia yra "
        "tyla ir šviesa, kurią matai tik tada, kai visi dar miega. Grįždavo jau saulei pakilus, šlapias ir ramus.",
    ),
    "tr": (
        "cp1254 iso8859-9 cp857 mac_turkish",
        "Kasabanın dışında yaşlı bir çınar ağacı vardı. Çocuklar öğleden sonra gölgesinde oynar, büyükler ise akşam "
        "serinliğinde çay içmeye gelirdi. Bir gün ağaç kesilecek dediler, ama kimse buna inanmak istemedi.",
    ),
    "eo": (
        "iso8859-3",
        "Ĉiun matenon la maljuna ĝardenisto iris al la rivero por ĉerpi akvon. Li ŝatis aŭskulti la birdojn kaj "
        "ĵetis al ili panerojn. Baldaŭ ĉiuj infanoj el la ĉirkaŭaĵo sciis, kie li sidas.",
    ),
    "vi": (
        "cp1258",
        "Ngày xưa có một người nông dân sống ở ven sông. Mỗi buổi sáng ông dậy sớm, ra đồng làm việc cho đến khi mặt "
        "trời lên cao, rồi mới trở về nhà ăn cơm cùng vợ và các con nhỏ của mình.",
    ),
    "ru": (
        "cp1251 koi8-r iso8859-5 cp866 mac_cyrillic cp855",
        "Старый смотритель маяка каждое утро поднимался наверх и протирал стёкла. Ночью он зажигал лампу, а днём "
        "читал книги, которые ему привозили из города. Никто не знал, сколько ему лет и откуда он приехал.",
    ),
    "uk": (
        "cp1251 koi8-u iso8859-5 cp1125 mac_cyrillic",
        "Щоранку їжак виходив із лісу й чекав на господиню, яка виносила йому молоко. Її діти сміялися, бо звір був "
        "зовсім не боязкий. Восени він зник, і лише наступної весни з'явився знову, вже з цілою родиною.",
    ),
    "bg": (
        "cp1251 iso8859-5 cp866 mac_cyrillic",
        "Всяка неделя дядо ми отваряше старата къщичка и вадеше отвътре инструментите си. Той можеше да поправи "
        "всичко, стига да имаше време и тишина. Аз седях до него и го гледах как работи, без да продумам.",
    ),
    "sr": (
        "cp1251 iso8859-5 cp855",
        "Сваке јесени људи из села иду на брдо да беру љешнике и шљиве. Њихова деца трче испред, а старији полако "
        "ћаскају и чекају да се магла подигне. Увече сви седе око ватре и причају о ђацима који су отишли у град.",
    ),
    "el": (
        "cp1253 iso8859-7 cp737 cp869 mac_greek",
        "Κάθε πρωί ο γέρος ψαράς έβγαινε με τη βάρκα του στο λιμάνι. Δεν έπιανε πια πολλά ψάρια, αλλά του άρεσε η "
        "ησυχία και το φως. Το μεσημέρι γύριζε στο σπίτι, όπου η εγγονή του τον περίμενε με ζεστή σούπα.",
    ),
    "he": (
        "cp1255 iso8859-8 cp862",
        "בכל בוקר היה הזקן יוצא אל השוק וקונה לחם וזיתים. אחר כך ישב על הספסל ליד הבית, סיפר לילדים סיפורים על הים "
        "ועל הערים הרחוקות, ורק כשירד הערב חזר לאט אל החדר הקטן שלו.",
    ),
    "ar": (
        "cp1256 iso8859-6 cp720 mac_arabic",
        "كان الحارس القديم يصعد كل صباح إلى أعلى البرج وينظر إلى البحر. وعندما تأتي السفن كان يكتب أسماءها في دفتر "
        "كبير ثم ينزل إلى المدينة ليخبر الناس بما رأى. ولم يسأله أحد عن عمره.",
    ),
    "th": (
        "cp874 tis-620 iso8859-11",
        "ทุกเช้าชายชราจะเดินไปที่ริมแม่น้ำเพื่อดูระดับน้ำ แล้วจดลงในสมุดเล่มเล็ก เด็ก ๆ ในหมู่บ้านชอบถามว่าปีนี้น้ำจะท่วมหรือไม่ "
        "แต่เขาเพียงยิ้มและบอกว่าให้รอดูก่อนถึงฤดูฝน",
    ),
    "ja": (
        "shift_jis cp932 euc_jp iso2022_jp iso2022_jp_2 iso2022_jp_ext shift_jis_2004 euc_jis_2004",
        "灯台の番人は毎朝、階段を上って窓を磨いた。夜になると明かりをつけ、昼は町から届いた本を読んでいた。"
        "彼がいつからそこに住んでいるのか、村の人は誰も知らなかった。ただ、嵐の晩には必ず光が見えたという。",
    ),
    "zh": (
        "gb2312 gbk gb18030 hz",
        "每天早上,老人都会走到河边看看水位,然后把数字写在一本小册子里。村里的孩子们喜欢问他今年会不会发大水,"
        "他总是笑着说,等雨季来了再看吧。没有人知道他是什么时候开始做这件事的。",
    ),
    "zh-hant": (
        "big5 cp950 big5hkscs",
        "每天早上,老人都會走到河邊看看水位,然後把數字寫在一本小冊子裡。村裡的孩子們喜歡問他今年會不會發大水,"
        "他總是笑著說,等雨季來了再看吧。沒有人知道他是什麼時候開始做這件事的。",
    ),
    "ko": (
        "euc_kr cp949 johab iso2022_kr",
        "매일 아침 노인은 강가로 걸어가서 물이 얼마나 높은지 보고 작은 공책에 적었다. 마을 아이들은 올해 홍수가 날 "
        "것인지 자주 물었지만, 그는 웃으면서 장마가 오면 알게 될 것이라고만 말했다.",
    ),
}  # fmt: skip
CASES = [(language, encoding) for language, (encodings, _) in LANGUAGES.items() for encoding in encodings.split()]
WIDE = ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"]
_TONES = "\u0300\u0301\u0303\u0309\u0323"


def written(language: str, encoding: str) -> str:
    """The text with the characters that the encoding has."""
    text = LANGUAGES[language][1]
    if language == "vi" and not encoding.startswith("utf"):
        parts = [unicodedata.normalize("NFD", char) for char in text]
        return "".join(
            unicodedata.normalize("NFC", "".join(c for c in part if c not in _TONES))
            + "".join(c for c in part if c in _TONES)
            for part in parts
        )
    return text


@pytest.mark.parametrize(("language", "encoding"), CASES)
def test_old_encodings(language: str, encoding: str) -> None:
    text = written(language, encoding)
    data = text.encode(encoding)
    assert decode(data).text == text
    assert decode(b"some words in English\r\n" * 40 + data).text.endswith(text)


@pytest.mark.parametrize("encoding", WIDE)
@pytest.mark.parametrize("language", LANGUAGES)
def test_wide_encodings_without_a_mark(language: str, encoding: str) -> None:
    text = LANGUAGES[language][1]
    assert decode(text.encode(encoding)).text == text


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf_16_without_ascii_has_no_nul_bytes(encoding: str) -> None:
    text = "每天早上老人都会走到河边看看水位然后把数字写在本子里。"
    assert b"\0" not in text.encode(encoding)
    assert decode(text.encode(encoding)).text == text


@pytest.mark.parametrize(
    ("declared", "encoding", "language"),
    [
        ("iso-8859-1", "cp1251", "ru"),
        ("windows-1252", "cp1250", "cs"),
        ("utf-8", "cp1253", "el"),
        ("nonsense", "euc_kr", "ko"),
    ],
)
def test_a_wrong_declaration_does_not_decide(declared: str, encoding: str, language: str) -> None:
    text = f'<?xml version="1.0" encoding="{declared}"?>\n<p>{LANGUAGES[language][1]}</p>'
    assert decode(text.encode(encoding)).text == text
    assert decode(LANGUAGES[language][1].encode(encoding), declared).text == LANGUAGES[language][1]


@pytest.mark.parametrize(
    ("text", "encoding"),
    [("Dvořák", "iso-8859-2"), ("жук", "koi8-r"), ("Zürich", "mac_roman")],
)
def test_a_declaration_decides_what_is_too_short_to_tell(text: str, encoding: str) -> None:
    assert decode(text.encode(encoding), encoding).text == text


def test_what_only_a_declaration_can_tell() -> None:
    assert decode("Grüße aus Köln".encode("utf-7"), "utf-7").text == "Grüße aus Köln"
    assert decode("1 + 1 -".encode("utf-7")).text == "1 +- 1 -"


def test_text_that_looks_like_escape_sequences() -> None:
    terminal = "\x1b(B\x1b[m a line\n" * 5
    assert decode(terminal.encode()).text == terminal
    template = "~{name~} and ~{x y~}"
    assert decode(template.encode()).text == template


def test_what_no_language_has_is_binary() -> None:
    data = random.Random(0).randbytes(10_000).translate(None, bytes(range(32)))
    with pytest.raises(Rejected, match="no known text encoding"):
        decode(data)
