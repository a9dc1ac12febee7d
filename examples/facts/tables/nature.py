"""Planets and their moons, classes of animals."""

from examples.facts.relation import Relation, facts, table, text

# Planet, place counted from the Sun, kind.
PLANETS = table("""
Mercury | 水星 | first | 第一 | rocky planets | 岩石行星
Venus | 金星 | second | 第二 | rocky planets | 岩石行星
Earth | 地球 | third | 第三 | rocky planets | 岩石行星
Mars | 火星 | fourth | 第四 | rocky planets | 岩石行星
Jupiter | 木星 | fifth | 第五 | gas giants | 气态巨行星
Saturn | 土星 | sixth | 第六 | gas giants | 气态巨行星
Uranus | 天王星 | seventh | 第七 | ice giants | 冰巨行星
Neptune | 海王星 | eighth | 第八 | ice giants | 冰巨行星
""")

MOONS = table("""
Phobos | 火卫一 | Mars | 火星
Io | 木卫一 | Jupiter | 木星
Titan | 土卫六 | Saturn | 土星
Triton | 海卫一 | Neptune | 海王星
Titania | 天卫三 | Uranus | 天王星
Deimos | 火卫二 | Mars | 火星
Europa | 木卫二 | Jupiter | 木星
Ganymede | 木卫三 | Jupiter | 木星
Callisto | 木卫四 | Jupiter | 木星
Enceladus | 土卫二 | Saturn | 土星
Rhea | 土卫五 | Saturn | 土星
Oberon | 天卫四 | Uranus | 天王星
Miranda | 天卫五 | Uranus | 天王星
Nereid | 海卫二 | Neptune | 海王星
Mimas | 土卫一 | Saturn | 土星
Tethys | 土卫三 | Saturn | 土星
Dione | 土卫四 | Saturn | 土星
Hyperion | 土卫七 | Saturn | 土星
Iapetus | 土卫八 | Saturn | 土星
Ariel | 天卫一 | Uranus | 天王星
Umbriel | 天卫二 | Uranus | 天王星
""")

ANIMALS = table("""
dog | 狗 | mammals | 哺乳动物
eagle | 鹰 | birds | 鸟类
frog | 青蛙 | amphibians | 两栖动物
snake | 蛇 | reptiles | 爬行动物
shark | 鲨鱼 | fish | 鱼类
bee | 蜜蜂 | insects | 昆虫
whale | 鲸 | mammals | 哺乳动物
penguin | 企鹅 | birds | 鸟类
toad | 蟾蜍 | amphibians | 两栖动物
crocodile | 鳄鱼 | reptiles | 爬行动物
salmon | 鲑鱼 | fish | 鱼类
ant | 蚂蚁 | insects | 昆虫
bat | 蝙蝠 | mammals | 哺乳动物
owl | 猫头鹰 | birds | 鸟类
newt | 蝾螈 | amphibians | 两栖动物
lizard | 蜥蜴 | reptiles | 爬行动物
carp | 鲤鱼 | fish | 鱼类
butterfly | 蝴蝶 | insects | 昆虫
spider | 蜘蛛 | arachnids | 蛛形动物
dolphin | 海豚 | mammals | 哺乳动物
ostrich | 鸵鸟 | birds | 鸟类
turtle | 龟 | reptiles | 爬行动物
seahorse | 海马 | fish | 鱼类
mosquito | 蚊子 | insects | 昆虫
scorpion | 蝎子 | arachnids | 蛛形动物
elephant | 大象 | mammals | 哺乳动物
parrot | 鹦鹉 | birds | 鸟类
gecko | 壁虎 | reptiles | 爬行动物
tuna | 金枪鱼 | fish | 鱼类
dragonfly | 蜻蜓 | insects | 昆虫
tiger | 老虎 | mammals | 哺乳动物
swan | 天鹅 | birds | 鸟类
chameleon | 变色龙 | reptiles | 爬行动物
eel | 鳗鱼 | fish | 鱼类
fly | 苍蝇 | insects | 昆虫
horse | 马 | mammals | 哺乳动物
pigeon | 鸽子 | birds | 鸟类
trout | 鳟鱼 | fish | 鱼类
moth | 飞蛾 | insects | 昆虫
rabbit | 兔子 | mammals | 哺乳动物
crow | 乌鸦 | birds | 鸟类
beetle | 甲虫 | insects | 昆虫
monkey | 猴子 | mammals | 哺乳动物
duck | 鸭子 | birds | 鸟类
cricket | 蟋蟀 | insects | 昆虫
kangaroo | 袋鼠 | mammals | 哺乳动物
""")

RELATIONS = (
    Relation(
        name="planet_order",
        topic="astronomy",
        title=text("order of the planets", "行星的次序"),
        facts=facts("planet_order", PLANETS, (0, 1), (2, 3)),
        statements={
            "en": (
                "Counted from the Sun, {s} is the {o} planet.",
                "{s} is the {o} planet from the Sun.",
                "The {o} planet from the Sun is {s}.",
                "Among the planets, counted outwards, {s} comes {o}.",
                "Counted from the Sun, the place of {s} is the {o}.",
            ),
            "zh": (
                "从太阳数起，{s}是{o}颗行星。",
                "行星由近到远，{s}排{o}。",
                "从太阳数起，{o}颗行星是{s}。",
                "{s}在行星中离太阳的次序是{o}。",
                "在行星里，{s}的位置是{o}。",
            ),
        },
        questions={
            "en": (
                "Counted from the Sun, which place has {s}?",
                "In which place among the planets is {s}?",
                "Which planet from the Sun is {s}?",
            ),
            "zh": (
                "从太阳数起，{s}排第几？",
                "{s}在行星中排第几？",
                "{s}离太阳的次序是第几？",
            ),
        },
    ),
    Relation(
        name="planet_kinds",
        topic="astronomy",
        title=text("kinds of planets", "行星的种类"),
        facts=facts("planet_kinds", PLANETS, (0, 1), (4, 5)),
        spare=(text("dwarf planets", "矮行星"), text("stars", "恒星")),
        statements={
            "en": (
                "{s} is one of the {o}.",
                "{s} belongs to the {o}.",
                "Astronomers count {s} among the {o}.",
                "Among the {o} is {s}.",
                "The {o} include {s}.",
            ),
            "zh": (
                "{s}是一颗{o}。",
                "{s}属于{o}。",
                "按种类说，{s}是{o}。",
                "属于{o}的有{s}。",
                "{o}包括{s}。",
            ),
        },
        questions={
            "en": (
                "To which kind of planets does {s} belong?",
                "Among which planets do astronomers count {s}?",
                "Which group of planets includes {s}?",
            ),
            "zh": ("{s}是哪种行星？", "{s}属于哪种行星？", "按种类说，{s}是什么？"),
        },
    ),
    Relation(
        name="moons",
        topic="astronomy",
        title=text("moons of the planets", "行星的卫星"),
        facts=facts("moons", MOONS, (0, 1), (2, 3)),
        statements={
            "en": (
                "{s} is a moon of {o}.",
                "{s} moves around {o}.",
                "One of the moons of {o} is {s}.",
                "The planet of {s} is {o}.",
                "{o} has a moon called {s}.",
            ),
            "zh": (
                "{s}是{o}的卫星。",
                "{s}绕着{o}转动。",
                "{s}所绕的行星是{o}。",
                "{o}的一颗卫星叫{s}。",
                "有{s}这颗卫星的行星是{o}。",
            ),
        },
        questions={
            "en": (
                "Which planet has the moon {s}?",
                "Around which planet does {s} move?",
                "What is the planet of {s}?",
            ),
            "zh": ("{s}是哪颗行星的卫星？", "{s}绕着哪颗行星转动？", "{s}所绕的行星是什么？"),
        },
    ),
    Relation(
        name="animal_classes",
        topic="biology",
        title=text("classes of animals", "动物的种类"),
        facts=facts("animal_classes", ANIMALS, (0, 1), (2, 3)),
        statements={
            "en": (
                "The {s} belongs to the {o}.",
                "Biologists count the {s} among the {o}.",
                "The animals called {o} include the {s}.",
                "Among the {o} we find the {s}.",
                "The {s} is one of the {o}.",
            ),
            "zh": (
                "{s}属于{o}。",
                "{s}是一种{o}。",
                "{o}包括{s}。",
                "属于{o}的有{s}。",
                "按种类说，{s}是{o}。",
            ),
        },
        questions={
            "en": (
                "To which class of animals does the {s} belong?",
                "Among which animals do biologists count the {s}?",
                "Which group of animals includes the {s}?",
            ),
            "zh": ("{s}属于哪类动物？", "{s}是一种什么动物？", "按种类说，{s}是什么？"),
        },
    ),
)
