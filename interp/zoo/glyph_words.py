"""Captions of glyphs, and the keys that tell which of them are one concept or one series."""

import html
import json
import re
from functools import cache
from pathlib import Path

# Titles that name the collection, not the picture; the file's own words are used instead.
GENERIC_TITLE = re.compile(
    r"clipart by|various clip|road signs?$|aiga|etiquette icons|theme$|icon theme|"
    r"^open ?clip ?art|^unsorted|^untitled|^no ?name|^drawing|^hash\(|^new document|^title|"
    r"s[iu]bmission|^advertising$|australian maps|iconset|sallite|balloons-aj|chess pieces|"
    r"^svg |^sodipodi|^unknown|^insert|^test$|^design$|sample|clip ?art$|^\W*$|^(flag|flags)$|"
    r"maps? symbols?|rpg map elements$|^\w$|^(image|picture|icon|icons|symbol|vector|object)$"
)

_COLOURS = (
    "red|green|blue|yellow|orange|purple|violet|pink|black|white|brown|grey|gray|light|dark|cyan|"
    "magenta|silver|gold|golden"
)
_WAYS = (
    "left|right|up|down|top|bottom|north|south|east|west|upwards|downwards|leftwards|rightwards|"
    "clockwise|counterclockwise|anticlockwise|inverted|inv|alt|small|medium|large|big|new|old"
)
_SERIES = re.compile(rf"\b(?:{_COLOURS}|{_WAYS}|a|an|the|of|with|and|icon|symbol|sign|clip|art)\b")
_GENDER = re.compile(
    r"\b(?:man|men|woman|women|person|people|boy|girl|child|male|female|mr|mrs|mx|prince|princess|"
    r"santa|claus|king|queen|merman|mermaid|merperson)\b"
)
_TEMPLATES = (
    (r"o.clock|-thirty$", "clock face"),
    (r"moon", "moon phase"),
    (r"^keycap", "keycap"),
    (
        r"^(red|orange|yellow|green|blue|purple|brown|black|white|pink|light blue|grey) heart$",
        "heart",
    ),
    (r"(circle|square)$", "plain shape"),
    (r"button$", "button"),
    (r"^family|^couple|^kiss", "family"),
    (r"globe showing", "globe"),
)


def _mended(text: str) -> str:
    """Undo UTF-8 that was once read as Latin-1."""
    try:
        return text.encode("latin-1").decode("utf-8")
    except UnicodeError:
        return text


def words_of(text: str) -> str:
    """Return `text` as plain lower-case words: no entities, underscores, numbers or camel case."""
    text = _mended(html.unescape(html.unescape(text)))
    text = re.sub(r"hash\(0x[0-9a-f]+\)|hash[ _]0x\w*", " ", text, flags=re.I)
    text = re.sub(r"\.(svg|png|jpe?g|txt)\b", " ", text, flags=re.I)
    text = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", text)
    text = re.sub(r"clip[ -]?art( by [\w ]+ -)?", " ", text, flags=re.I)
    text = re.sub(r"\b(ganson|zazou|aj|rollandin|architetto|jonadab|md|omic\.ch)\b", " ", text)
    text = re.sub(r"[_#|/\\\"<>*+=~\[\]{}()]+", " ", text).replace(" - ", ", ")
    text = re.sub(r"(?<=[a-zA-Z])\d{1,3}\b|\b\d{1,3}[a-z]?\b(?!\s*(?:%|st|nd|rd|th)\b)", " ", text)
    text = re.sub(r"\s+", " ", text).strip(" -.,:;!'")
    return re.sub(r"\s+,", ",", text).lower()


def stem_words(stem: str) -> str:
    """Return the words of a file's name without its series number and common prefixes."""
    text = re.sub(r"(_\d+[a-z]?|_)$", "", stem)
    text = re.sub(r"^(aiga|signalflag|gnome-mime|gnome-fs|gnome-dev|gtk-stock|stock)[_-]", "", text)
    return words_of(text.replace("-", " "))


def openclipart_caption(title: str, stem: str, folder: str) -> str:
    """Return a caption from the title, or from the file's words where the title is generic."""
    title = html.unescape(title).strip()
    caption = "" if GENERIC_TITLE.search(title.lower()) else words_of(title)
    if len(re.sub(r"[^a-z]", "", caption)) < 2 or "rpg map" in caption:
        caption = stem_words(stem) if "rpg map" not in caption else caption.split(",")[0]
    leaf = re.sub(r"s$", "", folder.rsplit("/", 1)[-1].replace("_", " "))
    if len(re.sub(r"[^a-z]", "", caption)) < 2:
        caption = leaf
    if "/flags" in folder and "flag" not in caption:
        caption = f"flag of {caption}"
    if folder == "transportation/roadsigns" and "sign" not in caption:
        caption = f"{caption} road sign"
    return caption


def title_key(caption: str) -> str:
    """Return the concept that a caption names: same key, same cluster."""
    text = re.sub(r"[^\w ]", " ", caption.lower())
    text = re.sub(r"\b(b and w|bw|simple|outline|cartoon)\b", " ", text)
    text = re.sub(r"\b(flags? of|flags?|the|a|an|face|icon|symbol)\b|\d+", " ", text)
    return " ".join(sorted(re.sub(r"s\b", "", text).split())) or caption.lower()


def series_key(caption: str) -> str:
    """Return the caption without numbers, colours and directions: the key of a drawn series."""
    text = re.sub(r"[^\w ]", " ", caption.lower())
    return " ".join(sorted(_SERIES.sub(" ", re.sub(r"\d+", " ", text)).split())) or caption.lower()


def noto_template(label: str, subgroup: str) -> str:
    """Return the template an emoji is drawn from (clock faces, keycaps, gender variants, ...)."""
    for pattern, name in _TEMPLATES:
        if re.search(pattern, label.lower()):
            return f"noto {name}"
    if subgroup in ("arrow", "zodiac"):
        return f"noto {subgroup}"
    if subgroup.startswith("person"):
        rest = " ".join(_GENDER.sub(" ", label.lower()).replace(":", " ").split())
        return f"noto person {rest or label.lower()}"
    return f"noto {label.lower()}"


# English for captions in Italian, French or broken English; data, not rules.
CAPTIONS = Path(__file__).parent / "data" / "glyphs.captions.json"


@cache
def _english() -> dict[str, str]:
    return json.loads(CAPTIONS.read_text(encoding="utf-8"))


def shipped_caption(caption: str, category: str) -> str:
    """Return the caption as shipped: in English where the table knows it, without authors."""
    caption = _english().get(caption, caption)
    caption = re.sub(
        r"\b(architett?\w*|rollandin|frances\w*|francesco|guillo\w*|zazou|openclip\w*|opencli)\b",
        " ",
        caption,
    )
    caption = re.sub(r"[ ,]+(?:b and w|bw|bn)$", ", black and white", caption)
    caption = re.sub(r"^hotel icon (?:collection )?", "hotel sign, ", caption)
    caption = re.sub(r",?\s*\brpg map elem\w*", "", caption).replace("`", "'")
    caption = re.sub(r"\s*\S+@\S+|\bwed aug.*$", " ", caption)
    caption = re.sub(r"\s-|-\s", " ", re.sub(r"(?<=[A-Z]\w{3}) - ", "-", caption))
    caption = re.sub(r"\s+", " ", caption).strip(" -.,:;")
    return caption if len(re.findall(r"\w", caption)) > 1 else category


def shipped_tags(tags: tuple[str, ...]) -> list[str]:
    """Return the tags as shipped: without memory addresses, folder filler and emoticons."""
    kept = [tag for tag in tags if not re.search(r"0x[0-9a-f]*|^hash$|^unsorted$|^mapsym$", tag)]
    return [tag for tag in kept if re.search(r"\w\w", tag)]
