# Environments of other engines: each is made once, from its lock, for the rules that need it. The
# folder's name has the digest of the lock, so another lock makes another environment.


rule environment:
    input:
        ancient(f"{environments.LOCKS}/{{environment}}.txt"),
    output:
        f"{environments.FOLDER}/{{environment}}-{{digest}}/{environments.RECORD}",
    log:
        f"{environments.FOLDER}/logs/{{environment}}-{{digest}}.log",
    wildcard_constraints:
        environment=r"[a-z-]+",
        digest=r"[0-9a-f]{12}",
    shell:
        "dpg environment {wildcards.environment} --lock {input} --out $(dirname {output}) > {log} 2>&1"
