"""Months, weekdays and seasons."""

from examples.facts.relation import Relation, facts, table, text

# Month, number, days in a common year, season of the north (whole months, as in meteorology).
MONTHS = table("""
January | 一月 | 1 | 31 | winter | 冬天
February | 二月 | 2 | 28 | winter | 冬天
March | 三月 | 3 | 31 | spring | 春天
April | 四月 | 4 | 30 | spring | 春天
May | 五月 | 5 | 31 | spring | 春天
June | 六月 | 6 | 30 | summer | 夏天
July | 七月 | 7 | 31 | summer | 夏天
August | 八月 | 8 | 31 | summer | 夏天
September | 九月 | 9 | 30 | autumn | 秋天
October | 十月 | 10 | 31 | autumn | 秋天
November | 十一月 | 11 | 30 | autumn | 秋天
December | 十二月 | 12 | 31 | winter | 冬天
""")

WEEKDAYS = table("""
Monday | 星期一
Tuesday | 星期二
Wednesday | 星期三
Thursday | 星期四
Friday | 星期五
Saturday | 星期六
Sunday | 星期日
""")

SEASONS = table("""
spring | 春天
summer | 夏天
autumn | 秋天
winter | 冬天
""")


def _after(name: str, kind: str, kind_zh: str, which_zh: str, circle: list[list[str]]) -> Relation:
    """What comes after what in a circle of names."""
    following = circle[1:] + circle[:1]
    rows = [[*now[:2], *then[:2]] for now, then in zip(circle, following, strict=True)]
    return Relation(
        name=name,
        topic="calendar",
        title=text(f"order of the {kind}s", f"{kind_zh}的次序"),
        facts=facts(name, rows, (0, 1), (2, 3)),
        statements={
            "en": (
                f"The {kind} after {{s}} is {{o}}.",
                "After {s} comes {o}.",
                "When {s} ends, next comes {o}.",
                "{o} follows {s}.",
                "{o} comes right after {s}.",
                "{s} is followed by {o}.",
            ),
            "zh": (
                "{s}之后是{o}。",
                "接着{s}的是{o}。",
                "过了{s}就是{o}。",
                "{o}在{s}之后。",
                "{s}结束，{o}开始。",
                "排在{s}后面的是{o}。",
            ),
        },
        questions={
            "en": (
                f"Which {kind} comes after {{s}}?",
                "What follows {s}?",
                "When {s} ends, what comes next?",
            ),
            "zh": (f"{{s}}之后是{which_zh}？", "过了{s}是什么？", "排在{s}后面的是什么？"),
        },
    )


RELATIONS = (
    _after("months", "month", "月份", "哪个月", MONTHS),
    _after("weekdays", "day", "星期", "哪一天", WEEKDAYS),
    _after("seasons", "season", "季节", "哪个季节", SEASONS),
    Relation(
        name="month_numbers",
        topic="calendar",
        title=text("numbers of the months", "月份的数字"),
        facts=facts("month_numbers", MONTHS, (0, 1), (2,)),
        statements={
            "en": (
                "{s} is month number {o}.",
                "In the year {s} is the month with number {o}.",
                "In dates {s} is written as {o}.",
                "Month number {o} is {s}.",
                "The number {o} in a date means {s}.",
            ),
            "zh": (
                "{s}用数字写是 {o}。",
                "在日期里，{s}写成 {o}。",
                "一年的第 {o} 个月是{s}。",
                "日期里的 {o} 表示{s}。",
                "{s}的数字是 {o}。",
            ),
        },
        questions={
            "en": (
                "What is the number of the month {s}?",
                "How is {s} written in dates?",
                "Which month number has {s}?",
            ),
            "zh": ("{s}用数字怎么写？", "在日期里，{s}怎么写？", "{s}的数字是多少？"),
        },
    ),
    Relation(
        name="month_days",
        topic="calendar",
        title=text("days of the months", "月份的天数"),
        facts=facts("month_days", MONTHS, (0, 1), (3,)),
        spare=(text("29"),),
        statements={
            "en": (
                "In a common year the number of days in {s} is {o}.",
                "The days of {s} in a common year number {o}.",
                "In a common year {s} has {o} days.",
                "There are {o} days in {s} in a common year.",
                "{o} is the number of days of {s} in a common year.",
            ),
            "zh": (
                "平年{s}的天数是 {o}。",
                "平年{s}有 {o} 天。",
                "在平年，{s}一共 {o} 天。",
                "{o} 是平年{s}的天数。",
                "平年里{s}的天数为 {o}。",
            ),
        },
        questions={
            "en": (
                "How many days does {s} have in a common year?",
                "What is the number of days in {s} in a common year?",
                "In a common year, how many days are there in {s}?",
            ),
            "zh": (
                "平年{s}的天数是多少？",
                "平年{s}有多少天？",
                "在平年，{s}一共多少天？",
            ),
        },
    ),
    Relation(
        name="month_seasons",
        topic="calendar",
        title=text("seasons of the months", "月份的季节"),
        facts=facts("month_seasons", MONTHS, (0, 1), (4, 5)),
        statements={
            "en": (
                "In the north the season of {s} is {o}.",
                "In Europe the month {s} belongs to {o}.",
                "For northern countries {s} is in {o}.",
                "In the north {o} includes {s}.",
                "In Europe it is {o} in {s}.",
            ),
            "zh": (
                "在北方，{s}是{o}。",
                "在北半球，{s}属于{o}。",
                "北半球的{s}是{o}。",
                "北半球的{o}包括{s}。",
                "在北方，{o}里有{s}。",
            ),
        },
        questions={
            "en": (
                "Which season is {s} in the north?",
                "To which season does {s} belong in Europe?",
                "In the north, in which season is {s}?",
            ),
            "zh": (
                "在北半球，{s}属于哪个季节？",
                "在北方，{s}是什么季节？",
                "北半球的{s}是什么季节？",
            ),
        },
    ),
)
