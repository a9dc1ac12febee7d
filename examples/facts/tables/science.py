"""Chemical elements and SI units."""

from examples.facts.relation import Relation, facts, table, text

# Atomic number, symbol, name.
ELEMENTS = table("""
1 | H | hydrogen | 氢
2 | He | helium | 氦
3 | Li | lithium | 锂
4 | Be | beryllium | 铍
5 | B | boron | 硼
6 | C | carbon | 碳
7 | N | nitrogen | 氮
8 | O | oxygen | 氧
9 | F | fluorine | 氟
10 | Ne | neon | 氖
11 | Na | sodium | 钠
12 | Mg | magnesium | 镁
13 | Al | aluminium | 铝
14 | Si | silicon | 硅
15 | P | phosphorus | 磷
16 | S | sulfur | 硫
17 | Cl | chlorine | 氯
18 | Ar | argon | 氩
19 | K | potassium | 钾
20 | Ca | calcium | 钙
21 | Sc | scandium | 钪
22 | Ti | titanium | 钛
23 | V | vanadium | 钒
24 | Cr | chromium | 铬
25 | Mn | manganese | 锰
26 | Fe | iron | 铁
27 | Co | cobalt | 钴
28 | Ni | nickel | 镍
29 | Cu | copper | 铜
30 | Zn | zinc | 锌
31 | Ga | gallium | 镓
32 | Ge | germanium | 锗
33 | As | arsenic | 砷
34 | Se | selenium | 硒
35 | Br | bromine | 溴
36 | Kr | krypton | 氪
37 | Rb | rubidium | 铷
38 | Sr | strontium | 锶
39 | Y | yttrium | 钇
40 | Zr | zirconium | 锆
41 | Nb | niobium | 铌
42 | Mo | molybdenum | 钼
43 | Tc | technetium | 锝
44 | Ru | ruthenium | 钌
45 | Rh | rhodium | 铑
46 | Pd | palladium | 钯
47 | Ag | silver | 银
48 | Cd | cadmium | 镉
49 | In | indium | 铟
50 | Sn | tin | 锡
51 | Sb | antimony | 锑
52 | Te | tellurium | 碲
53 | I | iodine | 碘
54 | Xe | xenon | 氙
55 | Cs | caesium | 铯
56 | Ba | barium | 钡
57 | La | lanthanum | 镧
58 | Ce | cerium | 铈
59 | Pr | praseodymium | 镨
60 | Nd | neodymium | 钕
61 | Pm | promethium | 钷
62 | Sm | samarium | 钐
63 | Eu | europium | 铕
64 | Gd | gadolinium | 钆
65 | Tb | terbium | 铽
66 | Dy | dysprosium | 镝
67 | Ho | holmium | 钬
68 | Er | erbium | 铒
69 | Tm | thulium | 铥
70 | Yb | ytterbium | 镱
71 | Lu | lutetium | 镥
72 | Hf | hafnium | 铪
73 | Ta | tantalum | 钽
74 | W | tungsten | 钨
75 | Re | rhenium | 铼
76 | Os | osmium | 锇
77 | Ir | iridium | 铱
78 | Pt | platinum | 铂
79 | Au | gold | 金
80 | Hg | mercury | 汞
81 | Tl | thallium | 铊
82 | Pb | lead | 铅
83 | Bi | bismuth | 铋
84 | Po | polonium | 钋
85 | At | astatine | 砹
86 | Rn | radon | 氡
87 | Fr | francium | 钫
88 | Ra | radium | 镭
89 | Ac | actinium | 锕
90 | Th | thorium | 钍
91 | Pa | protactinium | 镤
92 | U | uranium | 铀
""")

# Quantity, unit, symbol: the seven base units, then the derived units with a name of their own.
UNITS = table("""
length | 长度 | metre | 米 | m
mass | 质量 | kilogram | 千克 | kg
time | 时间 | second | 秒 | s
electric current | 电流 | ampere | 安培 | A
temperature | 温度 | kelvin | 开尔文 | K
amount of substance | 物质的量 | mole | 摩尔 | mol
luminous intensity | 发光强度 | candela | 坎德拉 | cd
force | 力 | newton | 牛顿 | N
energy | 能量 | joule | 焦耳 | J
power | 功率 | watt | 瓦特 | W
pressure | 压强 | pascal | 帕斯卡 | Pa
frequency | 频率 | hertz | 赫兹 | Hz
electric charge | 电荷 | coulomb | 库仑 | C
voltage | 电压 | volt | 伏特 | V
electrical resistance | 电阻 | ohm | 欧姆 | Ω
capacitance | 电容 | farad | 法拉 | F
inductance | 电感 | henry | 亨利 | H
electrical conductance | 电导 | siemens | 西门子 | S
magnetic flux | 磁通量 | weber | 韦伯 | Wb
magnetic flux density | 磁通量密度 | tesla | 特斯拉 | T
luminous flux | 光通量 | lumen | 流明 | lm
illuminance | 光照度 | lux | 勒克斯 | lx
radioactivity | 放射性活度 | becquerel | 贝克勒尔 | Bq
absorbed dose | 吸收剂量 | gray | 戈瑞 | Gy
equivalent dose | 当量剂量 | sievert | 希沃特 | Sv
catalytic activity | 催化活性 | katal | 开特 | kat
plane angle | 平面角 | radian | 弧度 | rad
solid angle | 立体角 | steradian | 球面度 | sr
""")

RELATIONS = (
    Relation(
        name="element_symbols",
        topic="chemistry",
        title=text("symbols of the elements", "元素符号"),
        facts=facts("element_symbols", ELEMENTS, (2, 3), (1,)),
        statements={
            "en": (
                "The chemical symbol of {s} is {o}.",
                "In formulas {s} is written {o}.",
                "{s} has the symbol {o}.",
                "{o} is the symbol of the element {s}.",
                "The letters {o} stand for {s}.",
                "Chemists write {o} for {s}.",
            ),
            "zh": (
                "{s}的元素符号是 {o}。",
                "在化学式里，{s}写成 {o}。",
                "元素{s}用符号 {o} 表示。",
                "{o} 是{s}的元素符号。",
                "符号 {o} 代表元素{s}。",
                "{s}的化学符号写作 {o}。",
            ),
        },
        questions={
            "en": (
                "What is the chemical symbol of {s}?",
                "Which symbol stands for {s}?",
                "How is {s} written in formulas?",
            ),
            "zh": ("{s}的元素符号是什么？", "哪个符号代表{s}？", "在化学式里，{s}怎么写？"),
        },
    ),
    Relation(
        name="element_numbers",
        topic="chemistry",
        title=text("atomic numbers", "原子序数"),
        facts=facts("element_numbers", ELEMENTS, (2, 3), (0,)),
        statements={
            "en": (
                "The atomic number of {s} is {o}.",
                "{s} has atomic number {o}.",
                "In the periodic table {s} is number {o}.",
                "Number {o} in the periodic table is {s}.",
                "The element with atomic number {o} is {s}.",
                "The number of protons in {s} is {o}.",
            ),
            "zh": (
                "{s}的原子序数是 {o}。",
                "在元素周期表里，{s}排在第 {o} 位。",
                "元素周期表第 {o} 位是{s}。",
                "有 {o} 个质子的元素是{s}。",
                "{s}原子的质子数是 {o}。",
            ),
        },
        questions={
            "en": (
                "What is the atomic number of {s}?",
                "How many protons does {s} have?",
                "Which number is {s} in the periodic table?",
            ),
            "zh": (
                "{s}的原子序数是多少？",
                "{s}原子有多少个质子？",
                "{s}在元素周期表里排第几位？",
            ),
        },
    ),
    Relation(
        name="units",
        topic="physics",
        title=text("SI units", "国际单位"),
        facts=facts("units", UNITS, (0, 1), (2, 3)),
        statements={
            "en": (
                "The SI unit of {s} is the {o}.",
                "In physics {s} is measured in units of the {o}.",
                "The {o} is the SI unit of {s}.",
                "The unit of {s} is called the {o}.",
                "With the {o} we measure {s}.",
            ),
            "zh": (
                "{s}的国际单位是{o}。",
                "{o}是{s}的单位。",
                "表示{s}用的单位是{o}。",
                "人们用{o}来表示{s}。",
                "{s}的单位叫{o}。",
            ),
        },
        questions={
            "en": (
                "What is the SI unit of {s}?",
                "Which unit measures {s}?",
                "What is the unit of {s} called?",
            ),
            "zh": ("{s}的国际单位是什么？", "哪个单位表示{s}？", "{s}的单位叫什么？"),
        },
    ),
    Relation(
        name="unit_symbols",
        topic="physics",
        title=text("symbols of units", "单位符号"),
        facts=facts("unit_symbols", UNITS, (2, 3), (4,)),
        statements={
            "en": (
                "The symbol of the {s} is {o}.",
                "The unit {s} is written {o}.",
                "For the {s} physicists write {o}.",
                "The symbol {o} stands for the {s}.",
                "A number followed by {o} is given in units of the {s}.",
            ),
            "zh": (
                "单位{s}的符号是 {o}。",
                "{s}写成符号是 {o}。",
                "符号 {o} 代表单位{s}。",
                "{o} 是单位{s}的符号。",
                "单位{s}用 {o} 表示。",
            ),
        },
        questions={
            "en": (
                "What is the symbol of the unit {s}?",
                "How is the unit {s} written?",
                "Which symbol do physicists write for the {s}?",
            ),
            "zh": ("单位{s}的符号是什么？", "哪个符号代表单位{s}？", "单位{s}怎么写？"),
        },
    ),
)
