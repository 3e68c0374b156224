"""What AKShare and efinance get from the sandbox; a script that takes its URL and writes every answer as JSON.

Only the transport is changed: hosts stand for paths of the sandbox, and nobody sleeps.
"""

from __future__ import annotations

import json
import os
import sys
import time
from urllib.parse import urlsplit

import requests

HOSTS = {
    "eastmoney.com": "eastmoney",
    "sina.com.cn": "sina",
    "sina.cn": "sina",
    "sinajs.cn": "sina",
    "gtimg.cn": "tencent",
    "qq.com": "tencent",
    "szse.cn": "szse",
    "sse.com.cn": "sse",
    "bse.cn": "bse",
}
DAY = {"start_date": "20261101", "end_date": "20261201"}


def redirect(base: str) -> None:
    """Send what goes to a site to the sandbox's path of it, and nothing anywhere else."""
    real = requests.adapters.HTTPAdapter.send

    def send(self, request, *args, **kwargs):
        parts = urlsplit(request.url)
        site = next((path for host, path in HOSTS.items() if f".{parts.hostname}".endswith(f".{host}")), None)
        if site is None:
            raise requests.ConnectionError(f"{parts.hostname} is not in the sandbox")
        query = f"?{parts.query}" if parts.query else ""
        request.url = f"{base}/{site}{parts.path}{query}"
        return real(self, request, *args, **{**kwargs, "proxies": {}})

    requests.adapters.HTTPAdapter.send = send


def main(base: str) -> None:
    redirect(base)
    time.sleep = lambda _seconds: None
    os.environ["TQDM_DISABLE"] = "1"
    import akshare
    import efinance

    efinance.utils.SEARCH_RESULT_CACHE_PATH = os.devnull
    history = {"beg": "20261101", "end": "20261201", "fqt": 0, "use_id_cache": False}
    asked = {
        "ak_spot_em": akshare.stock_zh_a_spot_em,
        "ak_spot_sina": akshare.stock_zh_a_spot,
        "ak_hist_em": lambda: akshare.stock_zh_a_hist("600519", **DAY),
        "ak_weeks_em": lambda: akshare.stock_zh_a_hist("600519", period="weekly", **DAY),
        "ak_hist_tx": lambda: akshare.stock_zh_a_hist_tx("sh600519", **DAY),
        "ak_hist_tx_star": lambda: akshare.stock_zh_a_hist_tx("sh688981", **DAY),
        "ak_minutes_em": lambda: akshare.stock_zh_a_hist_min_em("300750", period="1"),
        "ak_five_minutes_em": lambda: akshare.stock_zh_a_hist_min_em("300750", period="5"),
        "ak_five_minutes_sina": lambda: akshare.stock_zh_a_minute("sz300750", period="5"),
        "ak_list_sse": lambda: akshare.stock_info_sh_name_code("科创板"),
        "ak_list_szse": lambda: akshare.stock_info_sz_name_code("A股列表"),
        "ef_quotes": efinance.stock.get_realtime_quotes,
        "ef_history": lambda: efinance.stock.get_quote_history("600519", **history),
        "ef_minutes": lambda: efinance.stock.get_quote_history("600519", klt=1, fqt=0, use_id_cache=False),
    }
    frames = {name: ask() for name, ask in asked.items()}
    answers = {
        name: {word: [str(value) for value in column] for word, column in frame.items()}
        for name, frame in frames.items()
    }
    json.dump(answers, sys.stdout, ensure_ascii=False)


if __name__ == "__main__":
    main(sys.argv[1])
