"""Words: translations, opposites, and what the young of animals are called."""

from examples.facts.relation import Relation, facts, table, text

WORDS = table("""
water | 水
fire | 火
mountain | 山
river | 河
sun | 太阳
moon | 月亮
tree | 树
flower | 花
bread | 面包
milk | 牛奶
tea | 茶
apple | 苹果
book | 书
door | 门
house | 房子
school | 学校
teacher | 老师
friend | 朋友
red | 红色
blue | 蓝色
green | 绿色
white | 白色
black | 黑色
yellow | 黄色
mother | 母亲
father | 父亲
child | 孩子
hand | 手
foot | 脚
eye | 眼睛
ear | 耳朵
mouth | 嘴
heart | 心
rain | 雨
snow | 雪
wind | 风
cloud | 云
sky | 天空
star | 星星
sea | 海
grass | 草
egg | 鸡蛋
rice | 米饭
salt | 盐
sugar | 糖
window | 窗户
pen | 笔
student | 学生
doctor | 医生
eat | 吃
drink | 喝
run | 跑
walk | 走
read | 读
write | 写
sleep | 睡觉
today | 今天
tomorrow | 明天
yesterday | 昨天
city | 城市
country | 国家
road | 路
car | 汽车
train | 火车
ship | 船
airplane | 飞机
bird | 鸟
fish | 鱼
table | 桌子
chair | 椅子
""")

# Each pair is told in both directions, so no word may have a second opposite in the table.
OPPOSITES = table("""
big | small | 大 | 小
hot | cold | 热 | 冷
high | low | 高 | 低
long | short | 长 | 短
new | old | 新 | 旧
fast | slow | 快 | 慢
day | night | 白天 | 黑夜
open | closed | 开 | 关
good | bad | 好 | 坏
rich | poor | 富 | 穷
left | right | 左 | 右
near | far | 近 | 远
heavy | light | 重 | 轻
wet | dry | 湿 | 干
full | empty | 满 | 空
hard | soft | 硬 | 软
strong | weak | 强 | 弱
thick | thin | 厚 | 薄
wide | narrow | 宽 | 窄
deep | shallow | 深 | 浅
early | late | 早 | 晚
many | few | 多 | 少
buy | sell | 买 | 卖
win | lose | 赢 | 输
begin | end | 开始 | 结束
love | hate | 爱 | 恨
friend | enemy | 朋友 | 敌人
life | death | 生 | 死
war | peace | 战争 | 和平
north | south | 北 | 南
east | west | 东 | 西
clean | dirty | 干净 | 脏
cheap | expensive | 便宜 | 贵
inside | outside | 里 | 外
front | back | 前 | 后
up | down | 上 | 下
""")
_BOTH_WAYS = [
    row
    for en, other_en, zh, other_zh in OPPOSITES
    for row in ([en, zh, other_en, other_zh], [other_en, other_zh, en, zh])
]

# The English name of the young; Chinese mostly joins a word for "young" to the animal.
YOUNG = table("""
dog | 狗 | puppy
cat | 猫 | kitten
horse | 马 | foal
sheep | 绵羊 | lamb
cow | 牛 | calf
lion | 狮子 | cub
duck | 鸭 | duckling
chicken | 鸡 | chick
pig | 猪 | piglet
goat | 山羊 | kid
frog | 青蛙 | tadpole
butterfly | 蝴蝶 | caterpillar
kangaroo | 袋鼠 | joey
deer | 鹿 | fawn
goose | 鹅 | gosling
swan | 天鹅 | cygnet
bear | 熊 | cub
whale | 鲸 | calf
tiger | 老虎 | cub
elephant | 大象 | calf
hare | 野兔 | leveret
donkey | 驴 | foal
""")

RELATIONS = (
    Relation(
        name="translations",
        topic="language",
        title=text("translations", "翻译"),
        facts=facts("translations", WORDS, (0, 1), (1, 0)),
        statements={
            "en": (
                "The Chinese word for {s} is {o}.",
                "In Chinese {s} is {o}.",
                "To say {s} in Chinese, say {o}.",
                "{o} is the Chinese word for {s}.",
                "The Chinese word {o} means {s}.",
                "Chinese people call {s} {o}.",
            ),
            "zh": (
                "“{s}”的英文是 {o}。",
                "“{s}”用英语说是 {o}。",
                "在英文里，“{s}”写成 {o}。",
                "{o} 是“{s}”的英文。",
                "英文 {o} 表示“{s}”。",
                "英文 {o} 的意思是“{s}”。",
            ),
        },
        questions={
            "en": (
                "What is the Chinese word for {s}?",
                "What is {s} in Chinese?",
                "How do you say {s} in Chinese?",
            ),
            "zh": ("“{s}”的英文是什么？", "“{s}”用英语怎么说？", "在英文里，“{s}”怎么写？"),
        },
    ),
    Relation(
        name="opposites",
        topic="language",
        title=text("opposites", "反义词"),
        facts=facts("opposites", _BOTH_WAYS, (0, 1), (2, 3)),
        statements={
            "en": (
                "The opposite of {s} is {o}.",
                "The contrary of {s} is called {o}.",
                "Turn {s} around and you get {o}.",
                "{o} is the opposite of {s}.",
                "The word {o} means the opposite of {s}.",
            ),
            "zh": (
                "“{s}”的反义词是“{o}”。",
                "与“{s}”相反的是“{o}”。",
                "“{s}”反过来是“{o}”。",
                "“{o}”是“{s}”的反义词。",
                "“{o}”与“{s}”相反。",
            ),
        },
        questions={
            "en": (
                "What is the opposite of {s}?",
                "Which word means the opposite of {s}?",
                "What is the contrary of {s} called?",
            ),
            "zh": (
                "“{s}”的反义词是什么？",
                "与“{s}”相反的是什么？",
                "“{s}”反过来是什么？",
            ),
        },
    ),
    Relation(
        name="young_animals",
        topic="language",
        title=text("names of young animals", "幼小动物的英文名"),
        facts=facts("young_animals", YOUNG, (0, 1), (2,)),
        statements={
            "en": (
                "The name for the young of the {s} is {o}.",
                "A baby {s} is called a {o}.",
                "The baby of the {s} is the {o}.",
                "{o} is the word for a baby {s}.",
                "The name {o} is given to a baby {s}.",
            ),
            "zh": (
                "{s}的幼体英文叫 {o}。",
                "用英语说，年幼的{s}是 {o}。",
                "英文把年幼的{s}叫作 {o}。",
                "{o} 是年幼的{s}的英文名。",
                "英文 {o} 表示年幼的{s}。",
            ),
        },
        questions={
            "en": (
                "What is the young of the {s} called?",
                "What is a baby {s} called?",
                "What is the word for a baby {s}?",
            ),
            "zh": (
                "{s}的幼体英文叫什么？",
                "用英语说，年幼的{s}是什么？",
                "英文把年幼的{s}叫作什么？",
            ),
        },
    ),
)
