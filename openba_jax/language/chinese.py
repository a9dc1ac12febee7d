"""Chinese, by the English text; names in braces are those of the English."""

from __future__ import annotations

CHINESE = {
    # Progress.
    "[{seconds:5.0f} s]": "[{seconds:5.0f} 秒]",
    "{time:.0f} s": "{time:.0f} 秒",
    "{time:.0f} min": "{time:.0f} 分钟",
    "{time:.1f} h": "{time:.1f} 小时",
    "{time} so far": "已用 {time}",
    "{time} left": "剩余 {time}",
    "preparing": "正在准备语料",
    "preparing {files}": "正在准备 {files}",
    "converting {path}": "正在转换 {path}",
    "measuring {name}": "正在测量 {name}",
    "measuring the target losses of the denoisers": "正在测量各去噪任务的目标损失",
    "pruning {parent} to {child}": "正在把 {parent} 剪成 {child}",
    "scoring by {method}": "正在用 {method} 打分",
    "training {name}: {steps} steps": "正在训练 {name}，共 {steps} 步",
    "writing {path}": "正在写入 {path}",
    "writing the checkpoint": "正在写检查点",
    "{name}: step {step}/{last}, getting ready": "{name}：第 {step}/{last} 步，准备中",
    "step {step}/{last}": "第 {step}/{last} 步",
    "loss {value:.4f}": "损失 {value:.4f}",
    "eval {value:.4f} at step {step}": "第 {step} 步的验证损失 {value:.4f}",
    "{value:,.0f} tokens/s": "{value:,.0f} 词元/秒",
    "MFU {value:.1%}": "MFU {value:.1%}",
    # The table of a staged run.
    "model": "模型",
    "parameters": "参数量",
    "of the ancestor": "占原模型",
    "GFLOP/example": "GFLOP/样本",
    "tokens": "词元数",
    "loss before": "剪枝前损失",
    "loss after prune": "剪枝后损失",
    "loss after recovery": "恢复后损失",
    "tokens to recover": "恢复所需词元",
    "accuracy after prune": "剪枝后准确率",
    "accuracy after recovery": "恢复后准确率",
    "accuracy after tuning": "微调后准确率",
    "not reached": "未达到",
    # What it shows.
    "this run shows that": "本次运行表明",
    "yes": "是",
    "no": "否",
    "NO ": "否",
    "question": "问题",
    "answer of the final model": "最终模型的回答",
    "every stage ends with a lower loss than right after its cut": (
        "每个阶段结束时的损失都低于刚剪枝时"
    ),
    "not so: {names}": "例外：{names}",
    "{count} of {count} stages": "{count} 个阶段全部如此",
    "{one} ends with a lower loss than {other}": "{one} 的最终损失低于 {other}",
    "{one:.3f} against {other:.3f}": "{one:.3f} 对 {other:.3f}",
    "at most 30% of the parameters keep at least 80% of the accuracy above chance": (
        "用不超过 30% 的参数保住至少 80% 的高于随机的准确率"
    ),
    "{share:.1%} of the parameters keep {kept:.1%}: {after:.1%} against {before:.1%}, "
    "chance {chance:.1%}": (
        "{share:.1%} 的参数保住 {kept:.1%}：{after:.1%} 对 {before:.1%}，随机为 {chance:.1%}"
    ),
    "{one} reaches the last loss of {other} with fewer tokens of recovery": (
        "{one} 用更少的恢复词元达到 {other} 的最终损失"
    ),
    "{loss:.3f} not reached of {total:,}": "{total:,} 个词元内未达到 {loss:.3f}",
    "{loss:.3f} after {reached:,.0f} of {total:,} ({share:.0%})": (
        "在 {total:,} 个词元中用 {reached:,.0f} 个（{share:.0%}）达到 {loss:.3f}"
    ),
    "Questions that do not fit a model count as answered wrongly: {models}.": (
        "超出模型长度的问题按答错计：{models}。"
    ),
}
