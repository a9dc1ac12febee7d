"""Arithmetic, Roman numerals, number words and the sides of figures, by rule where there is one."""

from examples.facts.relation import Relation, facts, table, text

_ROMAN = (
    (1000, "M"), (900, "CM"), (500, "D"), (400, "CD"), (100, "C"), (90, "XC"), (50, "L"),
    (40, "XL"), (10, "X"), (9, "IX"), (5, "V"), (4, "IV"), (1, "I"),
)  # fmt: skip
_DIGITS = "零一二三四五六七八九"
_ONES, _TEENS, _TENS = table("""
zero | one | two | three | four | five | six | seven | eight | nine
ten | eleven | twelve | thirteen | fourteen | fifteen | sixteen | seventeen | eighteen | nineteen
- | - | twenty | thirty | forty | fifty | sixty | seventy | eighty | ninety
""")

FIGURES = table("""
triangle | 三角形 | 3
square | 正方形 | 4
pentagon | 五边形 | 5
hexagon | 六边形 | 6
heptagon | 七边形 | 7
octagon | 八边形 | 8
nonagon | 九边形 | 9
decagon | 十边形 | 10
rectangle | 长方形 | 4
rhombus | 菱形 | 4
trapezoid | 梯形 | 4
dodecagon | 十二边形 | 12
""")


def roman(number: int) -> str:
    """The Roman numeral of a positive number."""
    numeral = ""
    for value, letters in _ROMAN:
        count, number = divmod(number, value)
        numeral += letters * count
    return numeral


def words(number: int) -> tuple[str, str]:
    """A number from 0 to 99 in English and Chinese words."""
    tens, ones = divmod(number, 10)
    if tens < 2:
        en = (_ONES, _TEENS)[tens][ones]
    else:
        en = _TENS[tens] + (f"-{_ONES[ones]}" if ones else "")
    zh = ("", "十", f"{_DIGITS[tens]}十")[min(tens, 2)]
    return en, zh + (_DIGITS[ones] if ones or not tens else "")


# Both operands from 1 to 10, the small ones first.
_OPERANDS = sorted(((a, b) for a in range(1, 11) for b in range(1, 11)), key=max)
SUMS = [[f"{a} plus {b}", f"{a} 加 {b}", str(a + b)] for a, b in _OPERANDS]
PRODUCTS = [[f"{a} times {b}", f"{a} 乘以 {b}", str(a * b)] for a, b in _OPERANDS]
NUMERALS = [[str(n), roman(n)] for n in (*range(1, 31), *range(40, 101, 10), 500, 1000)]
NUMBER_WORDS = [[str(n), *words(n)] for n in (*range(21), *range(30, 100, 10), 21, 34, 48, 75)]


def _arithmetic(name: str, title_en: str, title_zh: str, rows: list[list[str]]) -> Relation:
    return Relation(
        name=name,
        topic="arithmetic",
        title=text(title_en, title_zh),
        facts=facts(name, rows, (0, 1), (2,)),
        near=True,
        statements={
            "en": (
                "{s} is {o}.",
                "{s} equals {o}.",
                "{s} makes {o}.",
                "The result of {s} is {o}.",
                "{o} is the result of {s}.",
                "We get {o} from {s}.",
            ),
            "zh": (
                "{s} 等于 {o}。",
                "{s} 得 {o}。",
                "{s} 的结果是 {o}。",
                "{o} 是 {s} 的结果。",
                "算一算，{s} 是 {o}。",
            ),
        },
        questions={
            "en": ("What is {s}?", "How much is {s}?", "What is the result of {s}?"),
            "zh": ("{s} 等于多少？", "{s} 得多少？", "{s} 的结果是多少？"),
        },
    )


RELATIONS = (
    _arithmetic("sums", "sums", "加法", SUMS),
    _arithmetic("products", "products", "乘法", PRODUCTS),
    Relation(
        name="roman_numerals",
        topic="numbers",
        title=text("Roman numerals", "罗马数字"),
        facts=facts("roman_numerals", NUMERALS, (0,), (1,)),
        statements={
            "en": (
                "The Roman numeral of {s} is {o}.",
                "The Romans wrote {s} as {o}.",
                "In Roman numerals {s} is {o}.",
                "{o} is the Roman numeral of {s}.",
                "The Roman letters {o} mean {s}.",
            ),
            "zh": (
                "{s} 的罗马数字是 {o}。",
                "{s} 用罗马数字写成 {o}。",
                "古罗马人把 {s} 写成 {o}。",
                "{o} 是 {s} 的罗马数字。",
                "罗马数字 {o} 表示 {s}。",
            ),
        },
        questions={
            "en": (
                "What is the Roman numeral of {s}?",
                "How did the Romans write {s}?",
                "What is {s} in Roman numerals?",
            ),
            "zh": ("{s} 的罗马数字是什么？", "{s} 用罗马数字怎么写？", "古罗马人怎么写 {s}？"),
        },
    ),
    Relation(
        name="number_words",
        topic="numbers",
        title=text("number words", "数词"),
        facts=facts("number_words", NUMBER_WORDS, (0,), (1, 2)),
        statements={
            "en": (
                "The number {s} in words is {o}.",
                "In letters {s} is written {o}.",
                "{s} is read as {o}.",
                "The word {o} means the number {s}.",
                "{o} is the word for {s}.",
            ),
            "zh": (
                "数字 {s} 读作{o}。",
                "{s} 用汉字写成{o}。",
                "{s} 的汉字是{o}。",
                "{o}表示数字 {s}。",
                "汉字{o}就是 {s}。",
            ),
        },
        questions={
            "en": (
                "How is the number {s} written in words?",
                "What is the word for {s}?",
                "How is {s} read?",
            ),
            "zh": ("数字 {s} 读作什么？", "{s} 用汉字怎么写？", "{s} 的汉字是什么？"),
        },
    ),
    Relation(
        name="figures",
        topic="numbers",
        title=text("sides of figures", "图形的边数"),
        facts=facts("figures", FIGURES, (0, 1), (2,)),
        near=True,
        statements={
            "en": (
                "The number of sides of the {s} is {o}.",
                "The {s} has {o} sides.",
                "Count the sides of the {s} and you get {o}.",
                "One figure with {o} sides is the {s}.",
                "{o} is the number of sides of the {s}.",
            ),
            "zh": (
                "{s}的边数是 {o}。",
                "{s}有 {o} 条边。",
                "数一数{s}的边，一共是 {o}。",
                "{o} 是{s}的边数。",
                "{s}的边一共 {o} 条。",
            ),
        },
        questions={
            "en": (
                "How many sides does the {s} have?",
                "What is the number of sides of the {s}?",
                "How many sides has the {s}?",
            ),
            "zh": ("{s}的边数是多少？", "{s}有多少条边？", "{s}一共有多少条边？"),
        },
    ),
)
