# Environments of other engines: each made once, from its lock, and used by the rules that need it.


rule environment:
    input:
        f"{environments.LOCKS}/{{environment}}.txt",
    output:
        f"{environments.FOLDER}/{{environment}}/{environments.RECORD}",
    log:
        f"{environments.FOLDER}/logs/{{environment}}.log",
    wildcard_constraints:
        environment=r"[a-z-]+",
    shell:
        "dpg environment {wildcards.environment} --lock {input} > {log} 2>&1"
